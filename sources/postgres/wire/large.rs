//! A message too large to be held: it is read past piece by piece, and of its columns only those
//! that were asked for are kept (law 5).
//!
//! ```text
//!  a row of a SELECT   count ( length bytes )…
//!  a change            ( 'O' | 'K' | 'N'  count ( 'n' | 'u' | 't' length bytes )… )…
//!                                                                  ▲
//!                                     kept when its place was asked for, else only counted
//! ```

use crate::postgres::tuple::Malformed;

/// Bytes that are kept of one column: a key's value beyond it makes no document id anyway.
pub(crate) const KEPT_MAX: usize = 64 << 10;

/// What is left of a column of a row that was skipped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    /// SQL null.
    Null,
    /// A TOASTed value that the change did not touch.
    Unchanged,
    /// PostgreSQL's text form.
    Text(Vec<u8>),
    /// Longer than [`KEPT_MAX`].
    TooLong {
        /// Bytes of the value.
        bytes: u64,
    },
    /// The row has no such column.
    Missing,
}

// Never a document's contents in a log or a panic.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Unchanged => f.write_str("Unchanged"),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::TooLong { bytes } => write!(f, "TooLong({bytes} bytes)"),
            Self::Missing => f.write_str("Missing"),
        }
    }
}

/// A row that was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LargeRow {
    /// Bytes of its values, without lengths and marks.
    pub(crate) bytes: u64,
    /// The columns asked for, in the order in which they were.
    pub(crate) kept: Vec<Kept>,
}

/// The rows of a message, in their order. The marks are those of pgoutput (`O`, `K`, `N`); a row of
/// a SELECT has the mark `D`.
pub(super) type Rows = Vec<(u8, LargeRow)>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Which row of a change comes: `O`, `K` or `N`.
    Mark,
    /// Two bytes: how many columns.
    Count,
    /// `n`, `u` or `t`.
    Kind,
    /// Four bytes.
    Length,
    /// So many bytes of a value are still to come.
    Value(u64),
    /// The only row is complete.
    End,
}

/// Reads past one message.
pub(super) struct Skip {
    keep: Vec<usize>,
    in_log: bool,
    /// Bytes of the message that have not come yet.
    left: u64,
    step: Step,
    /// A count or a length that has come in part.
    number: u32,
    number_bytes: u8,
    columns: u16,
    column: u16,
    rows: Rows,
}

impl Skip {
    /// A row of a SELECT whose message has `left` bytes.
    pub(super) fn data_row(left: usize, keep: &[usize]) -> Self {
        let mut skip = Self::new(left, keep.to_vec(), false, Step::Count);
        skip.begin_row(b'D');
        skip
    }

    /// What follows a change's relation number: `left` bytes.
    pub(super) fn change(left: usize, keep: Vec<usize>) -> Self {
        Self::new(left, keep, true, Step::Mark)
    }

    fn new(left: usize, keep: Vec<usize>, in_log: bool, step: Step) -> Self {
        Self {
            keep,
            in_log,
            left: left as u64,
            step,
            number: 0,
            number_bytes: 0,
            columns: 0,
            column: 0,
            rows: Vec::new(),
        }
    }

    /// Takes bytes of the message; gives how many it took.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let mut taken = 0;
        while taken < most {
            let taken_now = self.step(&bytes[taken..most])?;
            taken += taken_now;
            self.left -= taken_now as u64;
        }
        Ok(taken)
    }

    /// Whether the whole message has come.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// The rows, when the whole message has come.
    pub(super) fn finish(self) -> Result<Rows, Malformed> {
        let at_rest = match self.step {
            Step::Mark => !self.rows.is_empty(),
            Step::End => true,
            _ => false,
        };
        if !at_rest {
            return Err(Malformed("a large row ends before its last column"));
        }
        Ok(self.rows)
    }

    fn begin_row(&mut self, mark: u8) {
        let kept = self.keep.iter().map(|_| Kept::Missing).collect();
        self.rows.push((mark, LargeRow { bytes: 0, kept }));
    }

    /// One step; `bytes` is not empty. Gives how many it took, at least one.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self.step {
            Step::Mark => {
                // At most an old row and then a new one: else 2 GiB of tiny rows would be held as rows.
                match (self.rows.last(), bytes[0]) {
                    (None, b'O' | b'K' | b'N') | (Some((b'O' | b'K', _)), b'N') => self.begin_row(bytes[0]),
                    (None, _) => return Err(Malformed("a large change has a row of no known kind")),
                    (Some(_), _) => return Err(Malformed("a large change goes on after its new row")),
                }
                self.step = Step::Count;
                Ok(1)
            }
            Step::Count => {
                if let Some(count) = self.number(bytes[0], 2) {
                    self.columns = count as u16;
                    self.column = 0;
                    self.next_column(false);
                }
                Ok(1)
            }
            Step::Kind => {
                match bytes[0] {
                    b'n' => self.keep(Kept::Null),
                    b'u' => self.keep(Kept::Unchanged),
                    b't' => self.step = Step::Length,
                    _ => return Err(Malformed("a column is neither null, unchanged nor text")),
                }
                if bytes[0] != b't' {
                    self.next_column(true);
                }
                Ok(1)
            }
            Step::Length => {
                if let Some(length) = self.number(bytes[0], 4) {
                    self.begin_value(length as i32)?;
                }
                Ok(1)
            }
            Step::Value(left) => {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                self.append(&bytes[..take]);
                self.step = Step::Value(left - take as u64);
                if take as u64 == left {
                    self.next_column(true);
                }
                Ok(take)
            }
            Step::End => Err(Malformed("bytes follow the last column of a large row")),
        }
    }

    fn number(&mut self, byte: u8, width: u8) -> Option<u32> {
        self.number = self.number << 8 | u32::from(byte);
        self.number_bytes += 1;
        if self.number_bytes < width {
            return None;
        }
        self.number_bytes = 0;
        Some(std::mem::take(&mut self.number))
    }

    fn begin_value(&mut self, length: i32) -> Result<(), Malformed> {
        if length == -1 && !self.in_log {
            self.keep(Kept::Null);
            self.next_column(true);
            return Ok(());
        }
        let length = u64::try_from(length).map_err(|_| Malformed("a value has a negative length"))?;
        if let Some((_, row)) = self.rows.last_mut() {
            row.bytes += length;
        }
        self.keep(if length > KEPT_MAX as u64 {
            Kept::TooLong { bytes: length }
        } else {
            Kept::Text(Vec::with_capacity(if self.is_kept() { length as usize } else { 0 }))
        });
        if length == 0 {
            self.next_column(true);
        } else {
            self.step = Step::Value(length);
        }
        Ok(())
    }

    fn is_kept(&self) -> bool {
        self.keep.contains(&usize::from(self.column))
    }

    fn keep(&mut self, value: Kept) {
        let column = usize::from(self.column);
        let Some((_, row)) = self.rows.last_mut() else { return };
        for (&place, kept) in self.keep.iter().zip(&mut row.kept) {
            if place == column {
                *kept = value.clone();
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        let column = usize::from(self.column);
        let Some((_, row)) = self.rows.last_mut() else { return };
        for (&place, kept) in self.keep.iter().zip(&mut row.kept) {
            if let (true, Kept::Text(text)) = (place == column, kept) {
                text.extend_from_slice(bytes);
            }
        }
    }

    /// After the count, and after each column.
    fn next_column(&mut self, one_is_done: bool) {
        if one_is_done {
            self.column += 1;
        }
        self.step = match (self.column < self.columns, self.in_log) {
            (true, true) => Step::Kind,
            (true, false) => Step::Length,
            (false, true) => Step::Mark,
            (false, false) => Step::End,
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::postgres::tuple::{
        Value,
        tests::{data_row, log_row},
    };
    use proptest::prelude::*;

    fn feed(mut skip: Skip, mut bytes: &[u8], piece: usize) -> Result<Rows, Malformed> {
        while !skip.is_done() {
            let taken = skip.feed(&bytes[..piece.min(bytes.len())])?;
            bytes = &bytes[taken..];
        }
        skip.finish()
    }

    fn feed_all(skip: Skip, bytes: &[u8]) -> Result<Rows, Malformed> {
        feed(skip, bytes, usize::MAX)
    }

    fn expect(values: &[Option<Vec<u8>>], keep: &[usize]) -> LargeRow {
        let kept = keep.iter().map(|&place| match values.get(place) {
            None => Kept::Missing,
            Some(None) => Kept::Null,
            Some(Some(text)) if text.len() > KEPT_MAX => Kept::TooLong { bytes: text.len() as u64 },
            Some(Some(text)) => Kept::Text(text.clone()),
        });
        LargeRow { bytes: values.iter().flatten().map(|text| text.len() as u64).sum(), kept: kept.collect() }
    }

    fn values() -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
        let size = prop_oneof![8 => 0_usize..50, 1 => KEPT_MAX - 1..KEPT_MAX + 2];
        let value = prop::option::of((size, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]));
        prop::collection::vec(value, 0..9)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_skipped_row_keeps_what_was_asked_for(values in values(), keep in prop::collection::vec(0_usize..10, 0..4), piece in 1_usize..9000) {
            let slices: Vec<_> = values.iter().map(|value| value.as_deref()).collect();
            let bytes = data_row(&slices);
            let rows = feed(Skip::data_row(bytes.len(), &keep), &bytes, piece).unwrap();
            prop_assert_eq!(rows, vec![(b'D', expect(&values, &keep))]);
        }

        #[test]
        fn a_skipped_change_keeps_it_of_both_rows(old in values(), new in values(), keep in prop::collection::vec(0_usize..10, 0..4), piece in 1_usize..9000) {
            let mut bytes = Vec::new();
            for (mark, row) in [(b'O', &old), (b'N', &new)] {
                let row: Vec<_> = row.iter().map(|value| value.as_deref().map_or(Value::Null, Value::Text)).collect();
                bytes.push(mark);
                bytes.extend(log_row(&row));
            }
            let rows = feed(Skip::change(bytes.len(), keep.clone()), &bytes, piece).unwrap();
            prop_assert_eq!(rows, vec![(b'O', expect(&old, &keep)), (b'N', expect(&new, &keep))]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, piece in 1_usize..20) {
            let _any = feed(Skip::change(bytes.len(), vec![0, 1]), &bytes, piece);
            let _any = feed(Skip::data_row(bytes.len(), &[0, 1]), &bytes, piece);
        }

        #[test]
        fn a_change_has_an_old_row_and_a_new_one_and_no_more(values in values(), marks in "[OKN]{0,5}") {
            let row: Vec<_> = values.iter().map(|value| value.as_deref().map_or(Value::Null, Value::Text)).collect();
            let bytes: Vec<u8> = marks.bytes().flat_map(|mark| [vec![mark], log_row(&row)].concat()).collect();
            let is_change = ["O", "K", "N", "ON", "KN"].contains(&marks.as_str());
            prop_assert_eq!(feed_all(Skip::change(bytes.len(), vec![0]), &bytes).is_ok(), is_change);
        }

        #[test]
        fn a_message_cut_short_is_refused(values in values(), cut: prop::sample::Index) {
            let slices: Vec<_> = values.iter().map(|value| value.as_deref()).collect();
            let bytes = data_row(&slices);
            let cut = &bytes[..cut.index(bytes.len())];
            prop_assert!(feed(Skip::data_row(cut.len(), &[]), cut, 1 << 20).is_err());
        }
    }
}
