//! Every type that a column can have, asked of the server: read by SQL and in the log it is the same.
//!
//! ```text
//!   pg_type ──► CREATE TABLE probe (c type) ──► those that can be columns ──► all in one table, with
//!                                                 │                             their extreme values
//!                                                 └─ one that is not named here fails the test
//! ```
#![allow(clippy::expect_used)]

use super::super::catalog::ValueTypes;
use super::super::slot;
use super::super::wire::Next;
use super::extremes::{EXTREMES, OWN};
use super::{ROW_MAX, load, server, start_log, transaction, values};

/// Name in SQL, name alone, what relation's rows it is of, name of its element where it is an array; of each
/// type that the server lets a column have.
const PROBE: &str = "\
    CREATE FUNCTION columns() RETURNS TABLE (sql text, name name, relation \"char\", element name) AS $$
      DECLARE t record;
      BEGIN
        FOR t IN SELECT y.oid, y.typname, y.typtype, y.typoutput = 'array_out'::regproc AS is_array, e.typname AS of, c.relkind,
                        format('%I.%I', n.nspname, y.typname) AS spelled
                   FROM pg_type y JOIN pg_namespace n ON n.oid = y.typnamespace LEFT JOIN pg_type e ON e.oid = y.typelem
                        LEFT JOIN pg_class c ON c.oid = y.typrelid
                  WHERE y.typtype <> 'p' AND n.nspname IN ('pg_catalog', 'information_schema', 'live_types', 'public')
                  ORDER BY y.oid LOOP
          BEGIN
            EXECUTE format('CREATE TABLE probe (c %s)', t.spelled);
            EXECUTE 'DROP TABLE probe';
          EXCEPTION WHEN invalid_table_definition THEN CONTINUE;
          END;
          sql := t.spelled; name := t.typname; relation := t.relkind;
          element := CASE WHEN t.is_array AND t.typtype <> 'd' THEN t.of END;
          RETURN NEXT;
        END LOOP;
      END $$ LANGUAGE plpgsql";

/// A type as a column, with its values in SQL.
struct Tested {
    sql: String,
    values: Vec<String>,
}

fn extremes(name: &str) -> Option<Vec<String>> {
    let (_, values) = EXTREMES.iter().find(|(known, _)| *known == name)?;
    Some(values.iter().map(|value| (*value).to_owned()).collect())
}

/// `None` when nothing is known of it: a type that is new.
fn tested(row: &[Option<String>], all: &[Vec<Option<String>>]) -> Option<Tested> {
    let sql = row[0].clone().expect("a name");
    let name = row[1].as_deref().expect("a name");
    let cast = |value: String, sql: &str| format!("({value})::{sql}");
    if let Some(element) = &row[3] {
        let of = all.iter().find(|row| row[1].as_ref() == Some(element) && row[3].is_none())?;
        let inner = tested(of, all)?;
        let mut arrays = vec!["'{}'".to_owned(), "'{NULL}'".to_owned()];
        if !inner.values.is_empty() {
            let values: Vec<String> =
                inner.values.iter().map(|value| cast(value.clone(), &inner.sql)).collect();
            let values = values.join(",");
            arrays.push(format!("ARRAY[{values},NULL]"));
            arrays.push(format!("ARRAY[ARRAY[{values}],ARRAY[{values}]]"));
        }
        return Some(Tested { sql, values: arrays });
    }
    if let Some(values) = extremes(name) {
        return Some(Tested { sql, values });
    }
    if let Some(relation) = row[2].as_deref() {
        // A table's or a view's row: of nulls alone, and as it is in a table, if there is one.
        let nulls = format!(
            "(SELECT x FROM (SELECT 1) one LEFT JOIN LATERAL jsonb_populate_record(NULL::{sql}, '{{}}') x ON true)"
        );
        let some = format!("(SELECT x FROM {sql} x LIMIT 1)");
        let is_table = relation == "r";
        return Some(Tested { sql, values: if is_table { vec![nulls, some] } else { vec![nulls] } });
    }
    None
}

#[tokio::test]
async fn t11_every_type_that_a_column_can_have_is_the_same_read_by_sql_and_in_the_log() {
    let (mut server, config) = server("live_types").await;
    server.sql.simple("SET search_path = live_types, pg_catalog, public").await.unwrap();
    server.sql.simple(OWN).await.unwrap();
    server.sql.simple(PROBE).await.unwrap();
    let all = server.sql.simple("SELECT * FROM columns()").await.unwrap();
    let mut unknown = Vec::new();
    let mut columns = Vec::new();
    for row in &all {
        match tested(row, &all) {
            Some(tested) => columns.push(tested),
            None => unknown.push(row[0].clone().unwrap()),
        }
    }
    assert!(
        unknown.is_empty(),
        "types without values in this test, and perhaps without a line in the manual: {unknown:?}"
    );
    assert!(columns.len() > 300, "{} types", columns.len());

    let list: Vec<String> =
        columns.iter().enumerate().map(|(number, column)| format!("c{number} {}", column.sql)).collect();
    server.sql.simple(&format!("CREATE TABLE t (id int PRIMARY KEY, {})", list.join(", "))).await.unwrap();
    slot::ensure_publication(&mut server.sql, &config.publication, &config.wanted()).await.unwrap();
    slot::create_slot(&mut server.sql, &config.slot).await.unwrap();
    // A page holds no more at once, although large values go elsewhere.
    const TURNS: usize = 8;
    let most = columns.iter().map(|column| column.values.len()).max().unwrap();
    let rows = (most + 1) * TURNS;
    for row in 0..rows {
        let value = |(number, column): (usize, &Tested)| {
            let mine = number % TURNS == row % TURNS;
            match column.values.get(row / TURNS).filter(|_| mine) {
                Some(value) => format!("({value})::{}", column.sql),
                None => "NULL".to_owned(),
            }
        };
        let list: Vec<String> = columns.iter().enumerate().map(value).collect();
        server.sql.simple(&format!("INSERT INTO t VALUES ({row}, {})", list.join(", "))).await.unwrap();
    }
    server.sql.simple("SET search_path = pg_catalog").await.unwrap();

    let mut types = ValueTypes::default();
    let mut info = load(&mut server.sql, &mut types, &config).await;
    let select = format!("SELECT {} FROM {} ORDER BY id", info.sql_columns().join(", "), info.sql_from());
    server.sql.query(&select, &[]).await.unwrap();
    let mut read = Vec::new();
    while let Next::Row(tuple) = server.sql.next_row(ROW_MAX, &[0]).await.unwrap() {
        read.push(values(&info, tuple));
    }
    assert_eq!(read.len(), rows);
    let mut log = start_log(&server, &config).await;
    for row in &read {
        for (number, value) in row.iter().enumerate() {
            let of = number.checked_sub(1).map_or("id", |number| columns[number].sql.as_str());
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok();
            assert!(is_json && !value.contains(['\n', '\r']), "{of}: {value}");
        }
        let seen = transaction(&mut log, &mut info, &types, ROW_MAX).await;
        assert_eq!(seen, [format!("insert {}", row.join(" | "))]);
    }
    log.close().await;
    let some = read.iter().flatten().filter(|value| *value != "null").count();
    eprintln!("{} types, {} rows, {some} values that are not null", columns.len(), read.len());
}
