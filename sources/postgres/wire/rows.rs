//! Rows of a query, portion by portion, so that reading can end early.
//!
//! ```text
//!   ──► Parse Bind Execute(n) Flush          ◄── row … row PortalSuspended
//!   ──►            Execute(n) Flush          ◄── row … row CommandComplete
//!   ──►            Sync                      ◄── ReadyForQuery            End
//! ```
//! All portions are of one statement and one snapshot.

use std::ops::Range;

use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;

use super::{Connection, HEAD, LargeRow, ServerError, Skip, Skipping, State, Taken, WireError, unsendable};
use crate::postgres::tuple::Tuple;

/// Bytes that a portion should have: enough that the round trips do not count, little enough that
/// an early end throws little away.
const PORTION_BYTES: usize = 1 << 20;

/// Rows of the first portion, when nothing is known of their size.
const FIRST_PORTION: usize = 200;

/// The next thing in an answer.
#[derive(Debug)]
pub(crate) enum Next<'a> {
    /// A row.
    Row(Tuple<'a>),
    /// A row over the limit.
    TooLarge(LargeRow),
    /// There are no more rows, and the connection is idle.
    End,
}

/// What is known of an answer that is being read.
#[derive(Default)]
pub(super) struct Reading {
    rows: usize,
    bytes: usize,
    /// Sync is on its way: nothing more is asked for.
    ended: bool,
    refused: Option<Box<ServerError>>,
}

impl Reading {
    /// Rows of the next portion.
    fn portion(&self) -> i32 {
        let rows = match self.rows {
            0 => FIRST_PORTION,
            rows => PORTION_BYTES / (self.bytes / rows).max(1),
        };
        rows.clamp(1, 10_000) as i32
    }
}

/// [`Next`] without the borrow, so that it can be looked for in a loop.
enum Found {
    Row(Range<usize>),
    TooLarge(LargeRow),
    End,
}

impl Connection {
    /// Sends a query whose parameters are texts; the server finds their types. Its rows come from
    /// [`Connection::next_row`].
    pub(crate) async fn query(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<(), WireError> {
        self.must_be_idle()?;
        let reading = Reading::default();
        frontend::parse("", sql, [], &mut self.output).map_err(unsendable)?;
        let bound = frontend::bind(
            "",
            "",
            [],
            parameters,
            |parameter, out| match parameter {
                Some(text) => {
                    out.extend_from_slice(text.as_bytes());
                    Ok(IsNull::No)
                }
                None => Ok(IsNull::Yes),
            },
            [],
            &mut self.output,
        );
        bound.map_err(|_| WireError::Protocol("a query has too many parameters"))?;
        frontend::execute("", reading.portion(), &mut self.output).map_err(unsendable)?;
        frontend::flush(&mut self.output);
        self.state = State::Rows(reading);
        self.flush().await
    }

    /// The next row of the query. Of a row over `limit` bytes only the columns at the places in
    /// `keep` are kept. Dropping it loses nothing.
    pub(crate) async fn next_row(&mut self, limit: usize, keep: &[usize]) -> Result<Next<'_>, WireError> {
        loop {
            if let Some(found) = self.find_row(limit, keep)? {
                return self.shown(found);
            }
            self.hear().await?;
        }
    }

    /// The next row of the query if the buffer holds it; else [`Connection::fill`] brings more.
    #[cfg(test)]
    pub(crate) fn parse_row(&mut self, limit: usize, keep: &[usize]) -> Result<Option<Next<'_>>, WireError> {
        match self.find_row(limit, keep)? {
            Some(found) => self.shown(found).map(Some),
            None => Ok(None),
        }
    }

    /// All rows of a query with a short answer.
    pub(crate) async fn all_rows(
        &mut self,
        sql: &str,
        parameters: &[Option<&str>],
    ) -> Result<Vec<Vec<Option<String>>>, WireError> {
        self.query(sql, parameters).await?;
        let mut answered = super::Answered::default();
        loop {
            match self.next_row(super::CONTROL_MAX, &[]).await? {
                Next::Row(tuple) => answered.push(&tuple)?,
                Next::TooLarge(_) => {
                    return Err(WireError::Protocol("a row of more than 1 MiB in a short answer"));
                }
                Next::End => return Ok(answered.rows),
            }
        }
    }

    /// Ends reading the query's rows before their end. What the server has sent already, at most
    /// one portion, is read past.
    pub(crate) async fn cancel_rest(&mut self) -> Result<(), WireError> {
        match &mut self.state {
            State::Idle => return Ok(()),
            State::Rows(reading) if reading.ended => {}
            State::Rows(reading) => {
                reading.ended = true;
                frontend::close(b'P', "", &mut self.output).map_err(unsendable)?;
                frontend::sync(&mut self.output);
            }
            _ => return Err(WireError::Protocol("no query is being read")),
        }
        loop {
            // No row is held: each is large against this limit, and no column of it is kept.
            match self.find_row(0, &[])? {
                Some(Found::End) => return Ok(()),
                Some(_) => {}
                None => self.hear().await?,
            }
        }
    }

    fn shown(&self, found: Found) -> Result<Next<'_>, WireError> {
        Ok(match found {
            Found::Row(body) => Next::Row(Tuple::of_data_row(self.input.slice(body))?),
            Found::TooLarge(row) => Next::TooLarge(row),
            Found::End => Next::End,
        })
    }

    fn find_row(&mut self, limit: usize, keep: &[usize]) -> Result<Option<Found>, WireError> {
        if !matches!(self.state, State::Rows(_)) {
            return Err(WireError::Protocol("no query is being read"));
        }
        loop {
            if self.skip.is_some() {
                return self.go_on_skipping().map(|row| row.map(Found::TooLarge));
            }
            let (tag, body) = match self.take(limit)? {
                Taken::More => return Ok(None),
                Taken::Large { total } => {
                    self.count_row(total)?;
                    if self.input.ready().len() < HEAD {
                        return Ok(None);
                    }
                    self.input.consume(HEAD);
                    self.skip = Some(Skipping { skip: Skip::data_row(total - HEAD, keep), change: None });
                    continue;
                }
                Taken::Frame(tag, body) => (tag, body),
            };
            if tag == b'D' {
                self.count_row(body.len())?;
                return Ok(Some(Found::Row(body)));
            }
            if self.between_rows(tag, body)? {
                return Ok(Some(Found::End));
            }
        }
    }

    fn go_on_skipping(&mut self) -> Result<Option<LargeRow>, WireError> {
        let Some(mut skipping) = self.skip.take() else { return Ok(None) };
        let taken = skipping.skip.feed(self.input.ready())?;
        self.input.consume(taken);
        if !skipping.skip.is_done() {
            self.skip = Some(skipping);
            return Ok(None);
        }
        let row = skipping.skip.finish()?.pop();
        Ok(row.map(|(_, row)| row))
    }

    fn count_row(&mut self, bytes: usize) -> Result<(), WireError> {
        let State::Rows(reading) = &mut self.state else {
            return Err(WireError::Protocol("a row that nobody asked for"));
        };
        reading.rows += 1;
        reading.bytes += bytes;
        Ok(())
    }

    /// Whatever is no row; `true` when the answer has ended.
    fn between_rows(&mut self, tag: u8, body: Range<usize>) -> Result<bool, WireError> {
        let State::Rows(reading) = &mut self.state else {
            return Err(WireError::Protocol("no query is being read"));
        };
        match tag {
            // Portal suspended. While it is being ended, an answer to it is under way already.
            b's' if !reading.ended => {
                frontend::execute("", reading.portion(), &mut self.output).map_err(unsendable)?;
                frontend::flush(&mut self.output);
            }
            // Complete, or refused: the server waits for Sync either way.
            b'C' | b'I' | b'E' => {
                if tag == b'E' {
                    reading.refused = Some(Box::new(ServerError::parse(self.input.slice(body))));
                }
                if !reading.ended {
                    reading.ended = true;
                    frontend::sync(&mut self.output);
                }
            }
            b'Z' => {
                let refused = reading.refused.take();
                self.state = State::Idle;
                return match refused {
                    Some(error) => Err(error.into()),
                    None => Ok(true),
                };
            }
            b's' | b'1' | b'2' | b'3' | b'n' | b'T' => {}
            _ => return Err(WireError::Protocol("an unexpected message among rows")),
        }
        Ok(false)
    }
}
