//! Fuzz targets of a cluster's answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use sources::change::{Column, Kind};
use sources::fuzzing::{Meter, measured};
use sources::position::{Epoch, Offset};
use sources::world::RealWorld;

use super::client::{Answer, Client, failure, said};
use super::{Bulk, Elasticsearch, IndexSpec, StateDocument, Target, response, state};
use crate::lease::VERSION_MAX;

/// What an answer may take beside its bytes: a tree of small values is about ten times its text.
const TREE: usize = 40;

/// A bulk answer for so many actions and items, which its first two bytes say.
pub(crate) fn bulk_answer(data: &[u8], meter: &dyn Meter) {
    let Some(([wanted, items], body)) = data.split_first_chunk::<2>() else { return };
    let (wanted, items) = (usize::from(*wanted.min(items)), usize::from(*items));
    let judged = measured(meter, 16 * body.len() + 4096, || response::judge(body, wanted, items));
    if let Ok(outcomes) = judged {
        assert_eq!(outcomes.len(), wanted);
    }
}

/// The answer to a whole request, after its status in two bytes: what is said of it.
pub(crate) fn error_body(data: &[u8], meter: &dyn Meter) {
    let Some((status, body)) = data.split_first_chunk::<2>() else { return };
    let answer = Answer { status: u16::from_be_bytes(*status), body: body.to_vec() };
    let words = measured(meter, 16 * body.len() + 4096, || failure("fuzz", &answer).to_string());
    let is_error = serde_json::from_slice::<serde_json::Value>(body)
        .is_ok_and(|body| body.get("error").is_some_and(|error| error.get("type").is_some()));
    // Another's words may hold a document.
    if !is_error
        && body.len() > 60
        && !words.contains("not an answer")
        && !said(body).contains("not an answer")
    {
        // serde reads a sequence as a structure too.
        assert!(body.first().is_some_and(|byte| byte.is_ascii_whitespace() || matches!(byte, b'[' | b'{')));
    }
}

/// A conversation: the first line names what is done, `HTTP n` begins each answer.
pub(crate) fn answers(data: &[u8], meter: &dyn Meter) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some((done, script)) = text.split_once('\n') else { return };
    let parts = script.split("HTTP ").skip(1);
    let answers: Vec<Answer> = parts.filter_map(answer).collect();
    let target =
        Elasticsearch { client: Client::scripted(answers, RealWorld::shared()), is_met: true.into() };
    measured(meter, TREE * data.len() + (64 << 10), || run(&target, done));
}

fn answer(part: &str) -> Option<Answer> {
    let (status, body) = part.split_once('\n')?;
    Some(Answer { status: status.trim().parse().ok()?, body: body.as_bytes().to_vec() })
}

fn run(target: &Elasticsearch, done: &str) {
    match done {
        "bulk" => {
            let line = "{\"delete\":{\"_index\":\"products\",\"_id\":\"1\",\"version\":1}}\n";
            let body = line.repeat(3).into();
            let request = Bulk { opaque_id: "rowtide-x-0-1".to_owned(), body, actions: 3 };
            if let Ok(outcomes) = ready(target.bulk(request)) {
                assert_eq!(outcomes.len(), 3);
            }
        }
        "tasks" => drop(ready(target.is_running("rowtide-x-0-1"))),
        "index" => drop(ready(target.index("products"))),
        "create" => {
            let column = Column { name: "a".into(), kind: Kind::Text };
            let spec = IndexSpec {
                alias: "products".to_owned(),
                pipeline: "shop".to_owned(),
                fields: vec![("a".to_owned(), column)],
                shape_hash: "abc".to_owned(),
                easing: super::super::Easing::RefreshAndReplicas,
                ..IndexSpec::default()
            };
            if let Ok(made) = ready(target.create_index(&spec)) {
                assert_ne!(made.name, spec.alias);
            }
        }
        "delete" => drop(ready(target.delete_index("products-rowtide-1"))),
        "refresh" => drop(ready(target.refresh("products"))),
        "ids" => drop(ready(target.ids("products", None, 100))),
        "more-ids" => drop(ready(target.ids("products", Some("cursor".to_owned()), 100))),
        "load" => drop(ready(target.load_state("shop"))),
        "save" => drop(ready(target.save_state("shop", &document(), None))),
        _ => {}
    }
}

fn document() -> StateDocument {
    let indices = std::collections::BTreeMap::new();
    StateDocument { format: 1, identity: "x".to_owned(), base: 0, ceiling: 0, lease: None, indices }
}

/// The state document, as a cluster gives it: what is believed must not break arithmetic later.
pub(crate) fn state_document(data: &[u8], meter: &dyn Meter) {
    let read = measured(meter, TREE * data.len() + 4096, || {
        let source = serde_json::from_slice(data).ok()?;
        state::understand("shop", source).ok()
    });
    let Some(document) = read else { return };
    let again = serde_json::to_value(&document).unwrap();
    assert_eq!(state::understand("shop", again).unwrap(), document);
    assert!(document.ceiling <= VERSION_MAX);
    for place in [0, 1, VERSION_MAX] {
        let offset = Offset::new(place).unwrap();
        let _either = Epoch { base: document.base }.version(offset);
        let _either = Epoch::after(document.ceiling, offset).version(offset);
    }
    if let Some(lease) = &document.lease {
        // Raised at each renewal, three times in ten seconds.
        assert!(lease.beat.checked_add(1 << 32).is_some());
    }
}

fn ready<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("a script never waits"),
    }
}
