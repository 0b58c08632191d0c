//! One message of the log as what the reader does with it, free of the connection's buffer.

use std::collections::HashMap;
use std::sync::Arc;

use super::catalog::TableInfo;
use super::lsn::Lsn;
use super::open::Begin;
use super::pgoutput::{Message, OldKind};
use super::progress::KeyText;
use super::rows::{self, Image};
use super::tuple::{Tuple, Value};
use super::wire::{LargeChange, LargeKind};
use crate::change::{Key, Op, Row, RowBuilder};
use crate::source::SourceError;

/// What to do.
pub(super) enum Step {
    Nothing,
    Begin(Begin),
    Commit {
        end: Lsn,
    },
    /// A table is described; the message itself.
    Relation(Vec<u8>),
    /// A change that does not go out: of a table that nobody reads, or settled before the start. It
    /// counts on the wire all the same.
    Skipped,
    Changes(Changes),
    Clear(Vec<Arc<TableInfo>>),
    Keepalive {
        end: Lsn,
        reply: bool,
    },
}

/// A change of one row.
pub(super) struct Changes {
    pub table: Arc<TableInfo>,
    /// The key that is no more.
    pub gone: Option<Row>,
    pub new: New,
}

/// The row after it.
pub(super) enum New {
    None,
    Op(Op),
    /// Not every column is in the log (T07).
    Holes {
        key: Row,
        texts: KeyText,
    },
}

/// What is known when a message comes.
pub(super) struct Context<'a> {
    pub relations: &'a HashMap<u32, Option<Arc<TableInfo>>>,
    /// The transaction's settled prefix is being passed (T48).
    pub skipping: bool,
    /// Most bytes of a row.
    pub most: usize,
}

impl Context<'_> {
    /// The step of a message of the output plugin.
    pub(super) fn message(&self, message: &[u8], builder: &mut RowBuilder) -> Result<Step, SourceError> {
        let parsed = Message::parse(message).map_err(|error| rows::unexpected(error.0))?;
        match parsed {
            Message::Begin { final_lsn, commit_time_us, xid } => {
                Ok(Step::Begin(Begin { lsn: final_lsn, time_us: commit_time_us, xid }))
            }
            Message::Commit { end_lsn, .. } => Ok(Step::Commit { end: end_lsn }),
            Message::Relation(_) => Ok(Step::Relation(message.to_vec())),
            Message::Insert { relation, new } => match self.table(relation)? {
                None => Ok(Step::Skipped),
                Some(table) => self.new_row(table, None, None, &new, builder),
            },
            Message::Update { relation, old, new } => match self.table(relation)? {
                None => Ok(Step::Skipped),
                Some(table) => {
                    let full = old.as_ref().filter(|(kind, _)| *kind == OldKind::Full).map(|(_, old)| old);
                    self.new_row(table, old.as_ref().map(|(_, old)| old), full, &new, builder)
                }
            },
            Message::Delete { relation, old, .. } => match self.table(relation)? {
                None => Ok(Step::Skipped),
                Some(table) => {
                    let gone = Some(rows::key(table, &old, None, builder)?);
                    Ok(Step::Changes(Changes { table: table.clone(), gone, new: New::None }))
                }
            },
            Message::Truncate { relations, .. } => {
                if self.skipping {
                    return Ok(Step::Skipped);
                }
                let known = relations.iter().filter_map(|oid| self.relations.get(&oid)?.clone());
                Ok(Step::Clear(known.collect()))
            }
            Message::Type { .. } | Message::Origin | Message::Application => Ok(Step::Nothing),
        }
    }

    /// The step of a change that was too large to be held.
    pub(super) fn large(&self, change: &LargeChange, builder: &mut RowBuilder) -> Result<Step, SourceError> {
        let Some(table) = self.table(change.relation)? else {
            return Ok(Step::Skipped);
        };
        let before = change.old.as_ref().map(|(_, old)| old);
        let gone = before.map(|old| rows::large_key(table, old, None, builder)).transpose()?;
        let new = match (change.kind, &change.new) {
            (LargeKind::Delete, _) => New::None,
            (LargeKind::Insert | LargeKind::Update, None) => {
                return Err(rows::unexpected("a large change without a row"));
            }
            (LargeKind::Insert | LargeKind::Update, Some(new)) => {
                let key = rows::large_key(table, new, before, builder)?;
                // The message holds the old row too: the new one alone may fit.
                match rows::large_key_texts(new, before).filter(|_| new.bytes <= self.most as u64) {
                    Some(texts) => New::Holes { key, texts },
                    None => New::Op(Op::TooLarge { key, bytes: new.bytes }),
                }
            }
        };
        let stays = match &new {
            New::Op(op) => Some(op.row()),
            New::Holes { key, .. } => Some(key),
            New::None => None,
        };
        let gone = gone.filter(|gone| Some(gone) != stays);
        Ok(Step::Changes(Changes { table: table.clone(), gone, new }))
    }

    fn new_row(
        &self,
        table: &Arc<TableInfo>,
        old: Option<&Tuple<'_>>,
        full: Option<&Tuple<'_>>,
        new: &Tuple<'_>,
        builder: &mut RowBuilder,
    ) -> Result<Step, SourceError> {
        let gone = match old {
            None => None,
            Some(old) => {
                let before = rows::key(table, old, None, builder)?;
                let after = rows::key(table, new, Some(old), builder)?;
                (Key::of(&table.table, &before) != Key::of(&table.table, &after)).then_some(before)
            }
        };
        let new = match rows::image(table, new, full, builder, self.most)? {
            Image::Whole(op) => New::Op(op),
            Image::Holes => {
                let key = rows::key(table, new, old, builder)?;
                New::Holes { key, texts: key_texts(table, new, old)? }
            }
        };
        Ok(Step::Changes(Changes { table: table.clone(), gone, new }))
    }

    /// The table of a change; `None` when nobody reads it or it was settled before the start.
    fn table(&self, relation: u32) -> Result<Option<&Arc<TableInfo>>, SourceError> {
        match self.relations.get(&relation) {
            None => Err(rows::unexpected("a change of a table that it did not describe")),
            Some(_) if self.skipping => Ok(None),
            Some(table) => Ok(table.as_ref()),
        }
    }
}

fn key_texts(table: &TableInfo, new: &Tuple<'_>, old: Option<&Tuple<'_>>) -> Result<KeyText, SourceError> {
    let at = |tuple: &Tuple<'_>, column: u16| match tuple.values().nth(usize::from(column)) {
        Some(Value::Text(text)) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    };
    let text = |&column: &u16| at(new, column).or_else(|| old.and_then(|old| at(old, column)));
    let texts: Option<KeyText> = table.table.key.iter().map(text).collect();
    texts.ok_or_else(|| rows::unexpected("a row without its key"))
}
