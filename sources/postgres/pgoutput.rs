//! Messages of PostgreSQL's output plugin pgoutput, protocol version 1, values as text.
//!
//! ```text
//!   Begin  ( Relation? Type? Insert | Update | Delete | Truncate )…  Commit     one transaction
//! ```
//! A Relation comes before a table's first change in a session, and again after the table changed.
//! Everything is borrowed from the message; short or malformed input is an error.

use super::lsn::Lsn;
use super::tuple::{Malformed, Tuple};

/// Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// A transaction begins.
    Begin {
        /// Where its commit record stands: the transaction's place (law 1).
        final_lsn: Lsn,
        /// Microseconds since 1970.
        commit_time_us: i64,
        /// Its number, without the epoch.
        xid: u32,
    },
    /// It has ended.
    Commit {
        /// Where its commit record stands.
        commit_lsn: Lsn,
        /// Where the commit record ends.
        end_lsn: Lsn,
        /// Microseconds since 1970.
        time_us: i64,
    },
    /// What the rows of a table look like from here on.
    Relation(Relation<'a>),
    /// A new row.
    Insert {
        /// The table's oid.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A changed row.
    Update {
        /// The table's oid.
        relation: u32,
        /// The row before, when the key changed or the replica identity is FULL.
        old: Option<(OldKind, Tuple<'a>)>,
        /// The row after.
        new: Tuple<'a>,
    },
    /// A row gone.
    Delete {
        /// The table's oid.
        relation: u32,
        /// Whether `old` is whole.
        kind: OldKind,
        /// The row before; with [`OldKind::Key`] all but the key's columns are null.
        old: Tuple<'a>,
    },
    /// Tables emptied.
    Truncate {
        /// Their oids.
        relations: Relations<'a>,
        /// CASCADE was said.
        cascade: bool,
        /// RESTART IDENTITY was said.
        restart_identity: bool,
    },
    /// A type that is not built in; the catalog knows more of it.
    Type {
        /// The type's oid.
        oid: u32,
        /// Its schema.
        schema: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// Where a replicated transaction came from.
    Origin,
    /// What an application put into the log.
    Application,
}

/// Which columns an old row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OldKind {
    /// Those of the replica identity's index.
    Key,
    /// All of them (REPLICA IDENTITY FULL).
    Full,
}

/// What the rows of a table look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relation<'a> {
    /// The table's oid; with `publish_via_partition_root` the root's.
    pub(crate) oid: u32,
    /// Its schema.
    pub(crate) schema: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
    /// As in `pg_class.relreplident`: `d`, `n`, `f` or `i`.
    pub(crate) replica_identity: u8,
    /// In the order of the values of its rows.
    pub(crate) columns: Vec<RelationColumn<'a>>,
}

/// One column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelationColumn<'a> {
    /// Whether it belongs to the replica identity.
    pub(crate) key: bool,
    /// Its name.
    pub(crate) name: &'a str,
    /// Its type's oid.
    pub(crate) type_oid: u32,
    /// As in `pg_attribute.atttypmod`.
    pub(crate) type_modifier: i32,
}

/// The oids of a TRUNCATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relations<'a>(&'a [u8]);

impl Relations<'_> {
    /// One after another.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

impl<'a> Message<'a> {
    /// Reads a message.
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = Rest(message);
        let parsed = match rest.byte()? {
            b'B' => {
                Message::Begin { final_lsn: Lsn(rest.u64()?), commit_time_us: rest.time()?, xid: rest.u32()? }
            }
            b'C' => {
                let _flags = rest.byte()?;
                Message::Commit {
                    commit_lsn: Lsn(rest.u64()?),
                    end_lsn: Lsn(rest.u64()?),
                    time_us: rest.time()?,
                }
            }
            b'R' => Message::Relation(rest.relation()?),
            b'I' => {
                let relation = rest.u32()?;
                rest.mark(b'N')?;
                Message::Insert { relation, new: rest.tuple()? }
            }
            b'U' => rest.update()?,
            b'D' => {
                let relation = rest.u32()?;
                let kind = match rest.byte()? {
                    b'K' => OldKind::Key,
                    b'O' => OldKind::Full,
                    _ => return Err(Malformed("a delete has neither a key nor an old row")),
                };
                Message::Delete { relation, kind, old: rest.tuple()? }
            }
            b'T' => rest.truncate()?,
            b'Y' => Message::Type { oid: rest.u32()?, schema: rest.text()?, name: rest.text()? },
            // Nothing of these two is used, so nothing of them is read.
            b'O' => return Ok(Message::Origin),
            b'M' => return Ok(Message::Application),
            _ => return Err(Malformed("a message of the log is of no known kind")),
        };
        if !rest.0.is_empty() {
            return Err(Malformed("bytes follow the end of a message of the log"));
        }
        Ok(parsed)
    }
}

/// What is left of a message.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) =
            self.0.split_first_chunk::<N>().ok_or(Malformed("a message of the log ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_be_bytes)
    }

    /// Microseconds since 1970.
    fn time(&mut self) -> Result<i64, Malformed> {
        self.take().map(|bytes| i64::from_be_bytes(bytes).saturating_add(POSTGRES_EPOCH_US))
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let end = self.0.iter().position(|&byte| byte == 0);
        let (text, rest) = self.0.split_at(end.ok_or(Malformed("a name in the log has no end"))?);
        self.0 = &rest[1..];
        std::str::from_utf8(text).map_err(|_| Malformed("a name in the log is not UTF-8"))
    }

    fn mark(&mut self, expected: u8) -> Result<(), Malformed> {
        if self.byte()? != expected {
            return Err(Malformed("a change lacks its new row"));
        }
        Ok(())
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, Malformed> {
        let (tuple, rest) = Tuple::of_log(self.0)?;
        self.0 = rest;
        Ok(tuple)
    }

    fn update(&mut self) -> Result<Message<'a>, Malformed> {
        let relation = self.u32()?;
        let kind = match self.0.first() {
            Some(b'K') => Some(OldKind::Key),
            Some(b'O') => Some(OldKind::Full),
            _ => None,
        };
        let old = match kind {
            Some(kind) => {
                self.byte()?;
                Some((kind, self.tuple()?))
            }
            None => None,
        };
        self.mark(b'N')?;
        Ok(Message::Update { relation, old, new: self.tuple()? })
    }

    fn truncate(&mut self) -> Result<Message<'a>, Malformed> {
        let count = self.u32()? as usize;
        let options = self.byte()?;
        let bytes = count.checked_mul(4).filter(|&bytes| bytes <= self.0.len());
        let (relations, rest) = self.0.split_at(bytes.ok_or(Malformed("a truncate ends too early"))?);
        self.0 = rest;
        Ok(Message::Truncate {
            relations: Relations(relations),
            cascade: options & 1 != 0,
            restart_identity: options & 2 != 0,
        })
    }

    fn relation(&mut self) -> Result<Relation<'a>, Malformed> {
        let oid = self.u32()?;
        // pg_catalog is sent as an empty name.
        let schema = match self.text()? {
            "" => "pg_catalog",
            schema => schema,
        };
        let name = self.text()?;
        let replica_identity = self.byte()?;
        let count = self.u16()?;
        // A column has ten bytes or more: a false count reserves no more than the message has.
        let mut columns = Vec::with_capacity(usize::from(count).min(self.0.len() / 10));
        for _ in 0..count {
            columns.push(RelationColumn {
                key: self.byte()? & 1 != 0,
                name: self.text()?,
                type_oid: self.u32()?,
                type_modifier: self.u32()? as i32,
            });
        }
        Ok(Relation { oid, schema, name, replica_identity, columns })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::postgres::tuple::{Value, tests::log_row};
    use proptest::prelude::*;

    fn cat(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    fn samples() -> Vec<Vec<u8>> {
        let row = log_row(&[Value::Text(b"1"), Value::Null, Value::Unchanged]);
        let oid = 16_385_u32.to_be_bytes();
        let lsn = 0x16_B374_D848_u64.to_be_bytes();
        let time = 1_i64.to_be_bytes();
        vec![
            cat(&[b"B", &lsn, &time, &7_u32.to_be_bytes()]),
            cat(&[b"C\0", &lsn, &lsn, &time]),
            cat(&[
                b"R",
                &oid,
                b"\0t\0d\0\x02\x01id\0\0\0\0\x17\xff\xff\xff\xff\0n\0\0\0\0\x19\xff\xff\xff\xff",
            ]),
            cat(&[b"I", &oid, b"N", &row]),
            cat(&[b"U", &oid, b"N", &row]),
            cat(&[b"U", &oid, b"K", &row, b"N", &row]),
            cat(&[b"U", &oid, b"O", &row, b"N", &row]),
            cat(&[b"D", &oid, b"K", &row]),
            cat(&[b"D", &oid, b"O", &row]),
            cat(&[b"T\0\0\0\x02\x03", &oid, &oid]),
            cat(&[b"Y", &oid, b"public\0mood\0"]),
        ]
    }

    #[test]
    fn each_kind_of_message_is_read() {
        let samples = samples();
        let read: Vec<_> = samples.iter().map(|sample| Message::parse(sample).unwrap()).collect();
        let begin =
            Message::Begin { final_lsn: Lsn(0x16_B374_D848), commit_time_us: POSTGRES_EPOCH_US + 1, xid: 7 };
        assert_eq!(read[0], begin);
        let Message::Relation(relation) = &read[2] else { panic!("{:?}", read[2]) };
        assert_eq!((relation.schema, relation.name, relation.replica_identity), ("pg_catalog", "t", b'd'));
        let column = |key, name, type_oid| RelationColumn { key, name, type_oid, type_modifier: -1 };
        assert_eq!(relation.columns, [column(true, "id", 23), column(false, "n", 25)]);
        let Message::Insert { relation, new } = &read[3] else { panic!("{:?}", read[3]) };
        assert_eq!(*relation, 16_385);
        assert_eq!(new.values().collect::<Vec<_>>(), [Value::Text(b"1"), Value::Null, Value::Unchanged]);
        assert!(matches!(&read[4], Message::Update { old: None, .. }));
        assert!(matches!(&read[5], Message::Update { old: Some((OldKind::Key, _)), .. }));
        assert!(matches!(&read[6], Message::Update { old: Some((OldKind::Full, _)), .. }));
        assert!(matches!(&read[7], Message::Delete { kind: OldKind::Key, .. }));
        let Message::Truncate { relations, cascade: true, restart_identity: true } = &read[9] else {
            panic!("{:?}", read[9])
        };
        assert_eq!(relations.iter().collect::<Vec<_>>(), [16_385, 16_385]);
        assert_eq!(read[10], Message::Type { oid: 16_385, schema: "public", name: "mood" });
    }

    #[test]
    fn a_message_cut_anywhere_or_with_something_behind_it_is_refused() {
        for mut sample in samples() {
            for cut in 0..sample.len() {
                assert!(Message::parse(&sample[..cut]).is_err(), "{sample:?} cut at {cut}");
            }
            sample.push(0);
            assert!(Message::parse(&sample).is_err(), "{sample:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in prop::sample::select(b"BCRIUDTYOMx".as_slice()), mut bytes: Vec<u8>) {
            bytes.insert(0, kind);
            if let Ok(Message::Truncate { relations, .. }) = Message::parse(&bytes) {
                prop_assert!(relations.iter().count() <= bytes.len() / 4);
            }
        }

        #[test]
        fn no_flipped_byte_makes_it_panic(which in 0_usize..11, at: prop::sample::Index, byte: u8) {
            let mut sample = samples().swap_remove(which);
            let at = at.index(sample.len());
            sample[at] = byte;
            let _any = Message::parse(&sample);
        }
    }
}
