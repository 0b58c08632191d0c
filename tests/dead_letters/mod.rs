//! Law 6 as people meet it: refused documents are listed, shown, sent again and dropped; none is lost, and many of
//! them stay inside the memory.

mod bounds;
mod commands;
mod poison;

use std::process::Output;

use crate::harness::pair::{Pair, Setup};
use crate::harness::rowtide::Rowtide;

/// A table with a column of texts that the index takes for whole numbers.
const NUMBERS: &str = "mapping = { v = { type = \"long\", ignore_malformed = false } }";

/// Numbers are texts here, and that is told at each start.
async fn pair(sql: &str) -> Pair {
    let setup = Setup { sql, tables: &["t"], table: NUMBERS, ..Setup::default() };
    let mut pair = Pair::set(crate::harness::servers::Postgres::shared().await, setup).await;
    pair.rowtide.allow("does not hold its column");
    pair.rowtide.allow("the index is not as it is configured");
    pair
}

/// Runs `rowtide dead-letters …`: exit code and what was said on both outputs.
fn letters(rowtide: &Rowtide, command: &str, more: &[&str]) -> (i32, String) {
    let arguments = [&["dead-letters", command, "--config", "rowtide.toml"], more].concat();
    let Output { status, stdout, stderr } = rowtide.call(&arguments);
    let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    println!("rowtide {}: {status}\n{said}", arguments.join(" "));
    (status.code().unwrap(), said)
}

impl Pair {
    /// The field takes what is no number from now on, as a person would mend it: in the index, and in the
    /// configuration for the next run.
    async fn mend_the_mapping(&self) {
        let mended = self.config.replace("ignore_malformed = false", "ignore_malformed = true");
        assert_ne!(mended, self.config);
        self.rowtide.replace_configuration(&mended);
        let field = serde_json::json!({ "type": "long", "ignore_malformed": true });
        let mapping = serde_json::json!({ "properties": { "v": field } });
        self.http.json(reqwest::Method::PUT, &format!("/{}/_mapping", self.index("t")), Some(mapping)).await;
    }

    /// With the mapping mended, a retry ends every letter, and the next run finds the index equal. It runs on.
    async fn mend_and_retry(&mut self) {
        self.mend_the_mapping().await;
        let (code, said) = letters(&self.rowtide, "retry", &[]);
        assert!(code == 0 && self.rowtide.letters().is_empty(), "{said}");
        self.rowtide.run_again();
        self.wait_until_following().await;
        self.caught_up().await;
        self.assert_equal().await;
    }
}
