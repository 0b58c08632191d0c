//! Rows as documents, and documents as texts that can be compared.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// The side that is right: each row as the document that it should be.
pub(crate) trait Rows {
    /// The next rows as id and document (any JSON text of it); empty at the end.
    fn next(&mut self) -> impl Future<Output = Vec<(String, String)>>;
}

/// One text for each JSON value: fields in order, no space, strings escaped in one way, and each
/// number exactly as it was written.
pub(crate) fn canonical(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    write_canonical(text.trim(), &mut out);
    out
}

fn write_canonical(text: &str, out: &mut String) {
    match text.as_bytes().first() {
        Some(b'{') => {
            let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).expect("an object");
            out.push('{');
            for (number, (name, value)) in fields.iter().enumerate() {
                out.push_str(if number > 0 { "," } else { "" });
                out.push_str(&string(name));
                out.push(':');
                write_canonical(value.get().trim(), out);
            }
            out.push('}');
        }
        Some(b'[') => {
            let values: Vec<Box<RawValue>> = serde_json::from_str(text).expect("an array");
            out.push('[');
            for (number, value) in values.iter().enumerate() {
                out.push_str(if number > 0 { "," } else { "" });
                write_canonical(value.get().trim(), out);
            }
            out.push(']');
        }
        Some(b'"') => out.push_str(&string(&serde_json::from_str::<String>(text).expect("a string"))),
        _ => out.push_str(text),
    }
}

/// A string as JSON.
pub(crate) fn string(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}
