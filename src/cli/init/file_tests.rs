#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use sources::change::Column;
use sources::source::Finding;
use sources::world::RealWorld;

use super::*;
use crate::config::{self, Config, ConfigError, Environment};

fn table(name: &str, columns: &[&str]) -> FoundTable {
    let column = |name: &&str| Column { name: (*name).into(), kind: Kind::Text };
    let spell = |part: &str| match part.contains('.') || part.starts_with('"') {
        true => format!("\"{}\"", part.replace('"', "\"\"")),
        false => part.to_owned(),
    };
    let spelled = format!("public.{}", spell(name));
    let shape = Table {
        number: 0,
        name: spelled.as_str().into(),
        columns: columns.iter().map(column).collect(),
        key: [0].into(),
    };
    FoundTable {
        name: spelled,
        short_name: name.to_owned(),
        schema: "public".to_owned(),
        rows_estimated: 1234,
        bytes: 4096,
        table: Ok(Arc::new(shape)),
    }
}

fn text(tables: Vec<FoundTable>) -> String {
    let found = Discovered {
        name: "shop".to_owned(),
        place: "the database \"sh\nop\"".to_owned(),
        defaults: Vec::new(),
        tables,
    };
    let password = Password::Variable("PGPASSWORD");
    let url = "postgres://cdc@127.0.0.1/shop?application_name=${x}";
    write(&Parts { kind: "postgres", url, password, target: "http://127.0.0.1:9200", found: &found })
}

fn parsed(text: &str) -> Config {
    let environment: Environment = [("PGPASSWORD".to_owned(), "s3cret".to_owned())].into();
    let parsed =
        config::parse(text, Path::new("/etc"), &environment, &sources::makes(), &RealWorld::shared());
    parsed.unwrap_or_else(|problems| {
        panic!("{}\n{text}", ConfigError::Wrong { file: PathBuf::from("rowtide.toml"), problems })
    })
}

#[test]
fn what_is_written_is_a_configuration_with_the_mapping_beside_it() {
    let text = text(vec![table("products", &["id", "a.b"])]);
    for line in [
        "password = \"${PGPASSWORD}\"    # from the environment",
        "# public.products: about 1,234 rows, 4.0 KiB",
        "# key: id; a document's id is its text",
        "#   id   text → text and keyword",
        "#   a_b  text → text and keyword",
        "[pipelines.shop.tables.\"public.products\"]",
        "index = \"products\"",
        "rename = { \"a.b\" = \"a_b\" }",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in:\n{text}");
    }
    let config = parsed(&text);
    assert_eq!(config.pipelines[0].settings.tables[0].rename, [("a.b".to_owned(), "a_b".to_owned())]);
}

#[test]
fn a_table_that_cannot_be_read_stands_commented_out_with_its_sql() {
    let fault = Finding { what: "no key".into(), fix: "ALTER TABLE a;\nALTER TABLE \"b\rc\";".into() };
    let broken = FoundTable { table: Err(vec![fault]), ..table("broken", &[]) };
    let text = text(vec![broken, table("products", &["id"])]);
    for line in [
        "# It cannot be read yet: no key",
        "#     ALTER TABLE a;",
        "#     ALTER TABLE \"b\u{fffd}c\";",
        "# [pipelines.shop.tables.\"public.broken\"]",
        "# index = \"broken\"",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in:\n{text}");
    }
    assert_eq!(parsed(&text).pipelines[0].settings.tables.len(), 1);
}

proptest! {
    #[test]
    fn no_name_breaks_the_file(
        name in "[a\"\\\\.$\\{\\}#\\[\\]=' \n\r\t\u{1}\u{85}é]{1,12}",
        column in "[a\"\\\\.$\\{\\}#\\[\\]=' \n\r\t\u{1}\u{85}é]{1,12}",
    ) {
        let config = parsed(&text(vec![table(&name, &["id", &column]), table("other", &["id"])]));
        prop_assert_eq!(config.pipelines[0].settings.tables.len(), 2);
        prop_assert_eq!(&config.pipelines[0].settings.tables[0].table, &table(&name, &[]).name);
    }
}
