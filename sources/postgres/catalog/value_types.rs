//! How a type's values become JSON, by the type's oid.
//!
//! Built-in scalars are known by their oids, which never change. Of anything else pg_type says what
//! it is made of: a domain of its base, an array of its elements, a composite of its attributes, a range
//! of its bounds; an enum and the rest are texts. A type of an extension has another oid in each database,
//! so it is known by the extension.

use std::collections::HashMap;
use std::sync::Arc;

use crate::change::Kind;
use crate::postgres::decode::{Attributes, Decoder, kind_of_scalar};
use crate::postgres::pgoutput::Relation;
use crate::postgres::wire::{Connection, WireError};

/// Oids from here on are a database's own types.
const FIRST_OWN_OID: u32 = 16_384;

/// A domain over an array of a domain over … : deeper than this is a circle, and the catalog broken.
const DEPTH_MAX: usize = 16;

/// Built-in ranges that the server writes in one form, `[from,to)`, so that a range of whole numbers in
/// an index means the same.
const INT4RANGE: u32 = 3904;
const INT8RANGE: u32 = 3926;

/// What is known of types so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct ValueTypes(HashMap<u32, (Decoder, Kind)>);

/// An attribute's name and type.
type Attribute = (String, u32);

/// What a type is made of.
enum Form {
    Scalar,
    Domain(u32),
    Array(u32),
    /// The type of its bounds.
    Range(u32),
    /// The type of its ranges.
    Multirange(u32),
    /// Its attributes' names and types in their order, and how many were dropped.
    Composite(Vec<Attribute>, usize),
    Hstore,
    Geometry,
}

/// One row of pg_type, and the rows of pg_attribute that belong to it.
struct TypeRow {
    name: String,
    form: Form,
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
        let rows = connection.all_rows(SQL, &[Some(&format!("{{{}}}", unknown.join(",")))]).await?;
        let rows = TypeRow::collect(rows);
        for &oid in rows.keys() {
            self.0.insert(oid, Resolver::new(&rows).resolve(oid, 0));
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

/// Types and what they are made of, down to scalars; of a composite one row for each attribute. The
/// delimiter is the element's: that one array_out looks at.
const SQL: &str = "\
    WITH RECURSIVE wanted AS (
      SELECT unnest($1::oid[]) AS oid
      UNION
      SELECT part.oid FROM wanted w JOIN pg_type t ON t.oid = w.oid, LATERAL (
             SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
             UNION ALL SELECT t.typelem WHERE t.typtype <> 'd' AND t.typoutput = 'array_out'::regproc
             UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
             UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid
             UNION ALL SELECT a.atttypid FROM pg_attribute a
                        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0
                          AND NOT a.attisdropped) part)
    SELECT t.oid, t.typname, t.typdelim, CASE
             WHEN t.typtype = 'd' THEN 'domain'
             WHEN t.typoutput = 'array_out'::regproc THEN 'array'
             WHEN t.typtype = 'r' THEN 'range'
             WHEN t.typtype = 'm' THEN 'multirange'
             WHEN t.typtype = 'c' THEN 'composite'
             WHEN e.extname = 'hstore' AND t.typname = 'hstore' THEN 'hstore'
             WHEN e.extname = 'postgis' AND t.typname IN ('geometry', 'geography') THEN 'geometry'
           END,
           CASE t.typtype
             WHEN 'd' THEN t.typbasetype
             WHEN 'r' THEN (SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid)
             WHEN 'm' THEN (SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid)
             ELSE t.typelem
           END,
           a.attname, a.atttypid,
           (SELECT count(*) FROM pg_attribute d
             WHERE t.typtype = 'c' AND d.attrelid = t.typrelid AND d.attisdropped)
      FROM wanted w JOIN pg_type t ON t.oid = w.oid
      LEFT JOIN pg_attribute a ON t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0
                              AND NOT a.attisdropped
      LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
                           AND d.refclassid = 'pg_extension'::regclass
      LEFT JOIN pg_extension e ON e.oid = d.refobjid
     ORDER BY t.oid, a.attnum";

/// Follows types down to scalars. What was found at a depth is kept: a composite of composites of …
/// names the same types over and over.
struct Resolver<'a> {
    rows: &'a HashMap<u32, TypeRow>,
    found: HashMap<(u32, usize), (Decoder, Kind)>,
}

impl<'a> Resolver<'a> {
    fn new(rows: &'a HashMap<u32, TypeRow>) -> Self {
        Self { rows, found: HashMap::new() }
    }

    fn resolve(&mut self, oid: u32, depth: usize) -> (Decoder, Kind) {
        let rows = self.rows;
        let Some(row) = rows.get(&oid).filter(|_| depth < DEPTH_MAX) else {
            return (Decoder::of_scalar(oid), kind_of_scalar(oid, ""));
        };
        if let Some(found) = self.found.get(&(oid, depth)) {
            return found.clone();
        }
        let found = self.made_of(oid, row, depth + 1);
        self.found.insert((oid, depth), found.clone());
        found
    }

    fn made_of(&mut self, oid: u32, row: &TypeRow, depth: usize) -> (Decoder, Kind) {
        match &row.form {
            Form::Scalar => (Decoder::of_scalar(oid), kind_of_scalar(oid, &row.name)),
            Form::Domain(base) => self.resolve(*base, depth),
            Form::Array(element) => {
                let delimiter = self.rows.get(element).map_or(b',', |element| element.delimiter);
                let (decoder, kind) = self.resolve(*element, depth);
                (Decoder::array_of(decoder, delimiter), Kind::Array(Box::new(kind)))
            }
            Form::Range(bound) => {
                let (decoder, kind) = self.resolve(*bound, depth);
                let kind = match oid {
                    INT4RANGE => Kind::IntegerRange { bits: 32 },
                    INT8RANGE => Kind::IntegerRange { bits: 64 },
                    _ => Kind::Range(Box::new(kind)),
                };
                (Decoder::Range(Box::new(decoder)), kind)
            }
            Form::Multirange(range) => match self.resolve(*range, depth) {
                (Decoder::Range(bound), kind) => (Decoder::Multirange(bound), Kind::Array(Box::new(kind))),
                other => other,
            },
            Form::Composite(attributes, dropped) => {
                let mut names = Vec::with_capacity(attributes.len());
                let mut fields = Vec::with_capacity(attributes.len());
                for (name, type_oid) in attributes {
                    let (decoder, kind) = self.resolve(*type_oid, depth);
                    names.push((name.as_str(), decoder));
                    fields.push((name.as_str().into(), kind));
                }
                let attributes = Attributes::new(names.into_iter(), *dropped);
                (Decoder::Composite(Arc::new(attributes)), Kind::Object(fields.into()))
            }
            Form::Hstore => (Decoder::Hstore, Kind::Map),
            Form::Geometry => (Decoder::Geometry, Kind::Geometry),
        }
    }
}

impl TypeRow {
    /// The rows of [`SQL`], each type once.
    fn collect(rows: Vec<Vec<Option<String>>>) -> HashMap<u32, Self> {
        let mut types: HashMap<u32, Self> = HashMap::new();
        for row in rows {
            let Some((oid, mut found, attribute)) = Self::read(row) else { continue };
            let known = types.remove(&oid);
            if let Some(Self { form: Form::Composite(attributes, _), .. }) = known
                && let Form::Composite(kept, _) = &mut found.form
            {
                *kept = attributes;
            }
            if let Form::Composite(attributes, _) = &mut found.form {
                attributes.extend(attribute);
            }
            types.insert(oid, found);
        }
        types
    }

    fn read(row: Vec<Option<String>>) -> Option<(u32, Self, Option<Attribute>)> {
        let [oid, name, delimiter, form, part, attribute, attribute_type, dropped] =
            <[_; 8]>::try_from(row).ok()?;
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
        let part = number(part);
        let form = match (form.as_deref(), part) {
            (Some("domain"), Some(base)) => Form::Domain(base),
            (Some("array"), Some(element)) => Form::Array(element),
            (Some("range"), Some(bound)) => Form::Range(bound),
            (Some("multirange"), Some(range)) => Form::Multirange(range),
            (Some("composite"), _) => {
                let dropped = dropped.and_then(|text| text.parse().ok()).unwrap_or(0);
                Form::Composite(Vec::new(), dropped)
            }
            (Some("hstore"), _) => Form::Hstore,
            (Some("geometry"), _) => Form::Geometry,
            _ => Form::Scalar,
        };
        let delimiter = delimiter.and_then(|text| text.bytes().next()).unwrap_or(b',');
        Some((number(oid)?, Self { name: name?, form, delimiter }, attribute.zip(number(attribute_type))))
    }
}

/// For the fuzz targets: each row as one of pg_type, and all of them resolved.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_any(rows: Vec<Vec<Option<String>>>) -> usize {
    let rows = TypeRow::collect(rows);
    rows.keys().filter(|oid| Resolver::new(&rows).resolve(**oid, 0).0 != Decoder::Text).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<const N: usize>(forms: [(u32, &str, u8, Form); N]) -> HashMap<u32, TypeRow> {
        let row = |(oid, name, delimiter, form): (u32, &str, u8, Form)| {
            (oid, TypeRow { name: name.to_owned(), form, delimiter })
        };
        forms.map(row).into()
    }

    fn resolve(oid: u32, rows: &HashMap<u32, TypeRow>) -> (Decoder, Kind) {
        Resolver::new(rows).resolve(oid, 0)
    }

    #[test]
    fn a_domain_is_its_base_and_an_array_is_of_its_elements() {
        let rows = rows([
            (20_000, "price", b',', Form::Domain(20_001)),
            (20_001, "_price", b',', Form::Array(20_002)),
            (20_002, "amount", b',', Form::Domain(1700)),
            (1020, "_box", b';', Form::Array(603)),
            (603, "box", b';', Form::Scalar),
            (20_003, "circle_a", b',', Form::Domain(20_004)),
            (20_004, "circle_b", b',', Form::Domain(20_003)),
            (20_005, "citext", b',', Form::Scalar),
        ]);
        let (decoder, kind) = resolve(20_000, &rows);
        assert_eq!(decoder, Decoder::array_of(Decoder::Number, b','));
        assert_eq!(kind, Kind::Array(Box::new(Kind::Decimal)));
        assert_eq!(resolve(1020, &rows).0, Decoder::array_of(Decoder::Text, b';'));
        assert_eq!(resolve(20_003, &rows).0, Decoder::Text);
        assert_eq!(resolve(20_005, &rows).1, Kind::Text);
    }

    #[test]
    fn ranges_are_of_their_bounds_and_composites_of_their_attributes() {
        let pair = vec![("n".to_owned(), 23), ("spans".to_owned(), 20_001)];
        let rows = rows([
            (3904, "int4range", b',', Form::Range(23)),
            (20_000, "floats", b',', Form::Range(701)),
            (20_001, "many", b',', Form::Multirange(20_000)),
            (20_002, "pair", b',', Form::Composite(pair, 0)),
        ]);
        assert_eq!(resolve(3904, &rows).1, Kind::IntegerRange { bits: 32 });
        let floats = Kind::Range(Box::new(Kind::Float { bits: 64 }));
        assert_eq!(resolve(20_000, &rows), (Decoder::Range(Box::new(Decoder::Number)), floats.clone()));
        let many = Kind::Array(Box::new(floats));
        assert_eq!(resolve(20_001, &rows), (Decoder::Multirange(Box::new(Decoder::Number)), many.clone()));
        let fields = [("n".into(), Kind::Integer { bits: 32 }), ("spans".into(), many)];
        assert_eq!(resolve(20_002, &rows).1, Kind::Object(fields.into()));
    }

    #[test]
    fn composites_of_composites_are_not_counted_out() {
        // Sixteen levels of a hundred attributes each: 10^32 if each were made anew.
        let level = |level: u32| {
            let attributes = (0..100).map(|number| (format!("a{number}"), 20_001 + level)).collect();
            (
                20_000 + level,
                TypeRow { name: "c".to_owned(), form: Form::Composite(attributes, 0), delimiter: b',' },
            )
        };
        let rows: HashMap<u32, TypeRow> = (0..20).map(level).collect();
        assert!(matches!(resolve(20_000, &rows).0, Decoder::Composite(_)));
        let itself = HashMap::from([level(0), (20_001, level(0).1)]);
        assert!(matches!(resolve(20_000, &itself).0, Decoder::Composite(_)));
    }

    #[test]
    fn rows_of_the_catalog_become_types() {
        let row = |line: &str| {
            line.split('\t').map(|field| (field != "\\N").then(|| field.to_owned())).collect::<Vec<_>>()
        };
        let lines = [
            "20002\tpair\t,\tcomposite\t0\tn\t23\t1",
            "20002\tpair\t,\tcomposite\t0\tt\t25\t1",
            "20003\thstore\t,\thstore\t0\t\\N\t\\N\t0",
            "20004\tmood\t,\t\\N\t0\t\\N\t\\N\t0",
        ];
        let rows = TypeRow::collect(lines.map(row).into());
        let fields = [("n".into(), Kind::Integer { bits: 32 }), ("t".into(), Kind::Text)];
        assert_eq!(resolve(20_002, &rows).1, Kind::Object(fields.into()));
        assert_eq!(resolve(20_003, &rows), (Decoder::Hstore, Kind::Map));
        assert_eq!(resolve(20_004, &rows), (Decoder::Text, Kind::Keyword));
    }

    #[test]
    fn only_built_in_scalars_are_known_without_asking() {
        let types = ValueTypes::default();
        assert!(types.is_known(23) && types.is_known(3802));
        assert!(!types.is_known(1007) && !types.is_known(20_000));
    }
}
