//! Says whether an index holds exactly the documents that it should. Shares no code with Rowtide.
//!
//! ```text
//!   index  ──scroll──►  id → hash of _source ─┐
//!                                             ├─► missing · extra · different, with examples
//!   source ──Rows────►  (id, document) ───────┘
//! ```
//! Documents are compared as exact values: the text of each number as it stands, so that `1`, `"1"` and
//! `1.0` are three values; null is not absent; only the order of an object's fields and the way a
//! string is escaped do not count. Held are one id and one hash for each document of the index.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::http::Http;
use super::poll_until;
use super::rows::{Rows, canonical};

/// How many of each kind a report shows.
const EXAMPLES: usize = 5;
/// Documents in one answer of the index; with values of 10 KB an answer is 5 MB.
const PAGE: usize = 500;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) rows: u64,
    pub(crate) documents: u64,
    pub(crate) missing: u64,
    pub(crate) extra: u64,
    pub(crate) different: u64,
    /// Some of them, in words.
    examples: Vec<String>,
}

impl Report {
    pub(crate) fn is_equal(&self) -> bool {
        self.missing + self.extra + self.different == 0
    }

    /// Fails the test with the report unless both sides are equal.
    pub(crate) fn assert_equal(&self) {
        assert!(self.is_equal(), "the index does not equal its source: {self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rows, {} documents, {} missing, {} extra, {} different",
            self.rows, self.documents, self.missing, self.extra, self.different
        )?;
        self.examples.iter().try_for_each(|example| write!(f, "\n  {example}"))
    }
}

/// Compares `rows` with all documents of `index`, after a refresh.
pub(crate) async fn compare(http: &Http, index: &str, mut rows: impl Rows) -> Report {
    let mut documents = documents_of(http, index).await;
    let mut report = Report { documents: documents.len() as u64, ..Report::default() };
    loop {
        let batch = rows.next().await;
        if batch.is_empty() {
            break;
        }
        for (id, text) in batch {
            report.rows += 1;
            let expected = canonical(&text);
            match documents.remove(&id) {
                None => {
                    report.missing += 1;
                    if report.missing <= EXAMPLES as u64 {
                        report.examples.push(format!("missing {id}: {}", cut(&expected)));
                    }
                }
                Some(found) if found == hash(&expected) => {}
                Some(_) => {
                    report.different += 1;
                    if report.different <= EXAMPLES as u64 {
                        let found = read_one(http, index, &id).await;
                        report.examples.push(difference(&id, &expected, &found));
                    }
                }
            }
        }
    }
    report.extra = documents.len() as u64;
    for id in documents.keys().take(EXAMPLES) {
        report.examples.push(format!("extra {id}: {}", cut(&read_one(http, index, id).await)));
    }
    report
}

/// Waits until `index` holds exactly these rows, which are read anew for each comparison: DDL is noticed within
/// some seconds.
pub(crate) async fn become_equal<R: Rows>(
    http: &Http,
    index: &str,
    limit: Duration,
    mut rows: impl AsyncFnMut() -> R,
) {
    poll_until(&format!("{index} to equal its source"), limit, async || {
        let report = compare(http, index, rows().await).await;
        if !report.is_equal() {
            println!("{index}: {report}");
            // Each comparison opens a listing.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        report.is_equal().then_some(())
    })
    .await;
}

/// Shows two documents from a little before the place where they part.
fn difference(id: &str, expected: &str, found: &str) -> String {
    let same = expected.bytes().zip(found.bytes()).take_while(|(one, other)| one == other).count();
    let from = |text: &str| {
        let mut start = same.saturating_sub(60);
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        cut(&text[start..])
    };
    format!(
        "different {id} at byte {same}:\n    should be …{}\n    but is    …{}",
        from(expected),
        from(found)
    )
}

fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

#[derive(Deserialize)]
struct Page {
    /// Of a listing; a search without one has none.
    #[serde(rename = "_scroll_id", default)]
    scroll_id: String,
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_id")]
    id: String,
    #[serde(rename = "_source")]
    source: Box<RawValue>,
}

async fn documents_of(http: &Http, index: &str) -> HashMap<String, u64> {
    http.text(Method::POST, &format!("/{index}/_refresh"), None).await;
    let mut documents = HashMap::new();
    let first = json!({ "size": PAGE, "sort": ["_doc"], "query": { "match_all": {} } }).to_string();
    let mut answer = http.text(Method::POST, &format!("/{index}/_search?scroll=2m"), Some(first)).await;
    loop {
        let page: Page = serde_json::from_str(&answer).expect("a page of hits");
        let scroll = json!({ "scroll": "2m", "scroll_id": page.scroll_id });
        if page.hits.hits.is_empty() {
            http.text(
                Method::DELETE,
                "/_search/scroll",
                Some(json!({ "scroll_id": page.scroll_id }).to_string()),
            )
            .await;
            return documents;
        }
        for hit in page.hits.hits {
            let before = documents.insert(hit.id.clone(), hash(&canonical(hit.source.get())));
            assert!(before.is_none(), "the index holds {} twice", hit.id);
        }
        answer = http.text(Method::POST, "/_search/scroll", Some(scroll.to_string())).await;
    }
}

async fn read_one(http: &Http, index: &str, id: &str) -> String {
    let query = json!({ "query": { "ids": { "values": [id] } } }).to_string();
    let answer = http.text(Method::POST, &format!("/{index}/_search"), Some(query)).await;
    let page: Page = serde_json::from_str(&answer).expect("a page of hits");
    page.hits.hits.first().map_or_else(|| "gone meanwhile".into(), |hit| canonical(hit.source.get()))
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
