//! How a type's values become JSON, by the type's oid.
//!
//! Built-in scalars are known by their oids, which never change. Of anything else pg_type says what
//! it is made of: a domain of its base, an array of its elements; an enum and the rest are texts.

use std::collections::HashMap;

use crate::change::Kind;
use crate::postgres::decode::{Decoder, kind_of_scalar};
use crate::postgres::pgoutput::Relation;
use crate::postgres::wire::{Connection, WireError};

/// Oids from here on are a database's own types.
const FIRST_OWN_OID: u32 = 16_384;

/// A domain over an array of a domain over … : deeper than this is a circle, and the catalog broken.
const DEPTH_MAX: usize = 16;

/// What is known of types so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct ValueTypes(HashMap<u32, (Decoder, Kind)>);

/// One row of pg_type.
struct TypeRow {
    name: String,
    /// Of a domain.
    base: Option<u32>,
    /// Of an array.
    element: Option<u32>,
    delimiter: u8,
}

impl ValueTypes {
    /// How the values of a type become JSON. A type that was never loaded, or is gone, is a text.
    pub(crate) fn get(&self, type_oid: u32) -> (Decoder, Kind) {
        match self.0.get(&type_oid) {
            Some(known) => known.clone(),
            None => (Decoder::of_scalar(type_oid), kind_of_scalar(type_oid, "")),
        }
    }

    /// The types of a Relation message that must be loaded first.
    pub(crate) fn missing(&self, relation: &Relation<'_>) -> Vec<u32> {
        let types = relation.columns.iter().map(|column| column.type_oid);
        types.filter(|&type_oid| !self.is_known(type_oid)).collect()
    }

    /// Asks pg_type for those that are not known yet.
    pub(crate) async fn load(&mut self, connection: &mut Connection, oids: &[u32]) -> Result<(), WireError> {
        let unknown: Vec<String> =
            oids.iter().filter(|oid| !self.is_known(**oid)).map(u32::to_string).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        // The delimiter is the element's: that one array_out looks at.
        let sql = "\
            WITH RECURSIVE wanted AS (
              SELECT unnest($1::oid[]) AS oid
              UNION
              SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END
                FROM wanted w JOIN pg_type t ON t.oid = w.oid
               WHERE t.typtype = 'd' OR t.typoutput = 'array_out'::regproc)
            SELECT t.oid, t.typname,
                   CASE WHEN t.typtype = 'd' THEN t.typbasetype END,
                   CASE WHEN t.typtype <> 'd' AND t.typoutput = 'array_out'::regproc THEN t.typelem END,
                   t.typdelim
              FROM wanted w JOIN pg_type t ON t.oid = w.oid";
        let rows = connection.all_rows(sql, &[Some(&format!("{{{}}}", unknown.join(",")))]).await?;
        let rows: HashMap<u32, TypeRow> = rows.into_iter().filter_map(TypeRow::read).collect();
        for &oid in rows.keys() {
            self.0.insert(oid, resolve(oid, &rows, 0));
        }
        // Those that are gone are not asked for again with each Relation message.
        for &oid in oids {
            let known = self.get(oid);
            self.0.entry(oid).or_insert(known);
        }
        Ok(())
    }

    /// Built-in arrays are not among those known without asking.
    fn is_known(&self, type_oid: u32) -> bool {
        let is_built_in_scalar = type_oid < FIRST_OWN_OID && Decoder::of_scalar(type_oid) != Decoder::Text;
        is_built_in_scalar || self.0.contains_key(&type_oid)
    }
}

fn resolve(oid: u32, rows: &HashMap<u32, TypeRow>, depth: usize) -> (Decoder, Kind) {
    let Some(row) = rows.get(&oid).filter(|_| depth < DEPTH_MAX) else {
        return (Decoder::of_scalar(oid), kind_of_scalar(oid, ""));
    };
    if let Some(base) = row.base {
        return resolve(base, rows, depth + 1);
    }
    if let Some(element) = row.element {
        let delimiter = rows.get(&element).map_or(b',', |element| element.delimiter);
        let (decoder, kind) = resolve(element, rows, depth + 1);
        return (Decoder::array_of(decoder, delimiter), Kind::Array(Box::new(kind)));
    }
    (Decoder::of_scalar(oid), kind_of_scalar(oid, &row.name))
}

impl TypeRow {
    fn read(row: Vec<Option<String>>) -> Option<(u32, Self)> {
        let [oid, name, base, element, delimiter] = <[_; 5]>::try_from(row).ok()?;
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
        let delimiter = delimiter.and_then(|text| text.bytes().next()).unwrap_or(b',');
        Some((number(oid)?, Self { name: name?, base: number(base), element: number(element), delimiter }))
    }
}

/// For the fuzz targets: each row as one of pg_type, and all of them resolved.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_any(rows: Vec<Vec<Option<String>>>) -> usize {
    let rows: HashMap<u32, TypeRow> = rows.into_iter().filter_map(TypeRow::read).collect();
    rows.keys().filter(|oid| resolve(**oid, &rows, 0).0 != Decoder::Text).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_its_base_and_an_array_is_of_its_elements() {
        let row = |name: &str, base, element, delimiter| TypeRow {
            name: name.to_owned(),
            base,
            element,
            delimiter,
        };
        let rows = HashMap::from([
            (20_000, row("price", Some(20_001), None, b',')),
            (20_001, row("_price", None, Some(20_002), b',')),
            (20_002, row("amount", Some(1700), None, b',')),
            (1020, row("_box", None, Some(603), b';')),
            (603, row("box", None, None, b';')),
            (20_003, row("circle_a", Some(20_004), None, b',')),
            (20_004, row("circle_b", Some(20_003), None, b',')),
            (20_005, row("citext", None, None, b',')),
        ]);
        let (decoder, kind) = resolve(20_000, &rows, 0);
        assert_eq!(decoder, Decoder::array_of(Decoder::Number, b','));
        assert_eq!(kind, Kind::Array(Box::new(Kind::Decimal)));
        assert_eq!(resolve(1020, &rows, 0).0, Decoder::array_of(Decoder::Text, b';'));
        assert_eq!(resolve(20_003, &rows, 0).0, Decoder::Text);
        assert_eq!(resolve(20_005, &rows, 0).1, Kind::Text);
    }

    #[test]
    fn only_built_in_scalars_are_known_without_asking() {
        let types = ValueTypes::default();
        assert!(types.is_known(23) && types.is_known(3802));
        assert!(!types.is_known(1007) && !types.is_known(20_000));
    }
}
