//! The values of one row as they stand in the server's message, nothing copied.
//!
//! ```text
//! a row of a SELECT (DataRow)    count:u16  ( length:i32 (−1: null)  bytes )…
//! a row in the log (pgoutput)    count:u16  ( 'n' | 'u' | 't' length:i32 bytes )…
//! ```
//! A [`Tuple`] is walked once when it is made; so reading its values cannot fail.

/// The message is not what the protocol promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// One value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// SQL null.
    Null,
    /// A TOASTed value that an UPDATE did not change: it is not in the log (T07).
    Unchanged,
    /// PostgreSQL's text form.
    Text(&'a [u8]),
}

impl Value<'_> {
    /// Bytes of its text.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Unchanged => 0,
            Self::Text(text) => text.len(),
        }
    }
}

// Never a document's contents in a log or a panic.
impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Null => f.write_str("Null"),
            Value::Unchanged => f.write_str("Unchanged"),
            Value::Text(text) => write!(f, "Text({} bytes)", text.len()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    DataRow,
    Log,
}

/// The values of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple<'a> {
    form: Form,
    columns: u16,
    /// What follows the count, up to the end of the last value.
    values: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// A row of a SELECT, which fills its message.
    pub(crate) fn of_data_row(message: &'a [u8]) -> Result<Self, Malformed> {
        let (tuple, rest) = Self::read(Form::DataRow, message)?;
        if !rest.is_empty() {
            return Err(Malformed("bytes follow the last column of a row"));
        }
        Ok(tuple)
    }

    /// A row in the log, and what follows it.
    pub(crate) fn of_log(message: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        Self::read(Form::Log, message)
    }

    fn read(form: Form, message: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let Some((count, values)) = message.split_first_chunk::<2>() else {
            return Err(Malformed("a row ends before its count of columns"));
        };
        let columns = u16::from_be_bytes(*count);
        let mut rest = values;
        for _ in 0..columns {
            (_, rest) = next(form, rest)?;
        }
        let values = &values[..values.len() - rest.len()];
        Ok((Self { form, columns, values }, rest))
    }

    /// How many columns the row has.
    pub(crate) fn columns(&self) -> usize {
        usize::from(self.columns)
    }

    /// Bytes of the values on the wire, their lengths included.
    pub(crate) fn bytes(&self) -> usize {
        self.values.len()
    }

    /// The values in the order of the columns.
    pub(crate) fn values(&self) -> Values<'a> {
        Values { form: self.form, left: self.columns, rest: self.values }
    }
}

/// The values of a [`Tuple`], one after another.
#[derive(Clone, Debug)]
pub(crate) struct Values<'a> {
    form: Form,
    left: u16,
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The walk was made once already, by `Tuple::read`.
        let (value, rest) = next(self.form, self.rest).ok()?;
        self.rest = rest;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Values<'_> {}

#[inline]
fn next(form: Form, rest: &[u8]) -> Result<(Value<'_>, &[u8]), Malformed> {
    match form {
        Form::DataRow => {
            let (length, rest) = length(rest)?;
            if length == -1 {
                return Ok((Value::Null, rest));
            }
            text(length, rest)
        }
        Form::Log => match rest.split_first() {
            Some((b'n', rest)) => Ok((Value::Null, rest)),
            Some((b'u', rest)) => Ok((Value::Unchanged, rest)),
            Some((b't', rest)) => {
                let (length, rest) = length(rest)?;
                text(length, rest)
            }
            Some(_) => Err(Malformed("a column is neither null, unchanged nor text")),
            None => Err(Malformed("a row ends before its last column")),
        },
    }
}

#[inline]
fn length(rest: &[u8]) -> Result<(i32, &[u8]), Malformed> {
    match rest.split_first_chunk::<4>() {
        Some((length, rest)) => Ok((i32::from_be_bytes(*length), rest)),
        None => Err(Malformed("a row ends inside a length")),
    }
}

#[inline]
fn text(length: i32, rest: &[u8]) -> Result<(Value<'_>, &[u8]), Malformed> {
    let length = usize::try_from(length).map_err(|_| Malformed("a value has a negative length"))?;
    match rest.split_at_checked(length) {
        Some((text, rest)) => Ok((Value::Text(text), rest)),
        None => Err(Malformed("a row ends inside a value")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// A row in the form of the log, as the server writes it.
    pub(crate) fn log_row(values: &[Value<'_>]) -> Vec<u8> {
        let mut bytes = (values.len() as u16).to_be_bytes().to_vec();
        for value in values {
            match value {
                Value::Null => bytes.push(b'n'),
                Value::Unchanged => bytes.push(b'u'),
                Value::Text(text) => {
                    bytes.push(b't');
                    bytes.extend_from_slice(&(text.len() as i32).to_be_bytes());
                    bytes.extend_from_slice(text);
                }
            }
        }
        bytes
    }

    /// A row of a SELECT, as the server writes it.
    pub(crate) fn data_row(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut bytes = (values.len() as u16).to_be_bytes().to_vec();
        for value in values {
            match value {
                None => bytes.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(text) => {
                    bytes.extend_from_slice(&(text.len() as i32).to_be_bytes());
                    bytes.extend_from_slice(text);
                }
            }
        }
        bytes
    }

    #[test]
    fn a_row_of_the_log_gives_its_values_and_what_follows() {
        let values = [Value::Text(b"1"), Value::Null, Value::Unchanged, Value::Text(b"")];
        let mut bytes = log_row(&values);
        bytes.extend_from_slice(b"next");
        let (tuple, rest) = Tuple::of_log(&bytes).unwrap();
        assert_eq!(tuple.values().collect::<Vec<_>>(), values);
        assert_eq!(tuple.columns(), 4);
        assert_eq!(rest, b"next");
    }

    #[test]
    fn a_row_of_a_select_gives_its_values_and_fills_its_message() {
        let mut bytes = data_row(&[Some(b"1"), None, Some(b"")]);
        let tuple = Tuple::of_data_row(&bytes).unwrap();
        assert_eq!(tuple.values().collect::<Vec<_>>(), [Value::Text(b"1"), Value::Null, Value::Text(b"")]);
        bytes.push(0);
        assert!(Tuple::of_data_row(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn a_row_cut_anywhere_is_refused(texts in prop::collection::vec(prop::option::of(".{0,9}"), 1..9), cut: prop::sample::Index) {
            let values: Vec<_> = texts.iter().map(|text| text.as_ref().map_or(Value::Null, |text| Value::Text(text.as_bytes()))).collect();
            let bytes = log_row(&values);
            let (tuple, rest) = Tuple::of_log(&bytes).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(tuple.values().collect::<Vec<_>>(), values);
            prop_assert!(Tuple::of_log(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            if let Ok(tuple) = Tuple::of_data_row(&bytes) {
                prop_assert_eq!(tuple.values().count(), tuple.columns());
            }
            if let Ok((tuple, _)) = Tuple::of_log(&bytes) {
                prop_assert_eq!(tuple.values().count(), tuple.columns());
            }
        }
    }
}
