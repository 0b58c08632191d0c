//! T29 to T35 and T45 at the target itself: Rowtide's own requests against real servers. Each is run here on
//! Elasticsearch 8 and OpenSearch 2, and in `targets` on the others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use rowtide::lease::{Claim, Lease};
use rowtide::target::elasticsearch::{Elasticsearch, Settings};
use rowtide::target::{Bulk, IndexSpec, Outcome, StateDocument, Target, TargetError};
use serde_json::{Value, json};
use sources::change::{Column, Kind};
use sources::world::RealWorld;

use crate::harness::proxy::Proxy;
use crate::harness::servers::{Engine, Search};
use crate::harness::{fresh_name, poll_until};

/// A test of each function here, on these engines.
macro_rules! tests_on {
    ($engines:expr) => {
        $crate::traps::elasticsearch::tests_on! { $engines;
            t29_t30_t31_versions_decide_and_deletes_carry_them
            t32_a_poison_document_fails_alone
            t35_every_value_of_a_kind_is_taken_as_it_is
            t45_only_create_index_makes_an_index
            t45_an_index_that_was_made_again_has_another_uuid_and_a_plain_one_is_refused
            all_ids_are_listed_page_by_page
            the_state_document_changes_only_by_compare_and_set
            a_lease_is_held_renewed_and_given_back
            a_running_request_is_found_by_its_name
            what_is_not_known_is_said_so_and_nothing_is_sent_twice
            a_node_that_is_away_is_passed_over
            t33_a_body_beyond_the_limit_is_too_large_or_unresolved
            compressed_requests_to_nodes_that_the_cluster_names_write_the_same_documents
        }
    };
    ($engines:expr; $($name:ident)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::traps::elasticsearch::$name(&$engines).await;
            }
        )*
    };
}
pub(crate) use tests_on;

mod on_es8_and_os2 {
    use crate::harness::servers::Engine;

    super::tests_on!([Engine::Elasticsearch8, Engine::OpenSearch2]);
}

pub(crate) fn target(ports: &[u16]) -> Elasticsearch {
    let nodes = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    Elasticsearch::new(Settings::new(nodes), RealWorld::shared()).unwrap()
}

pub(crate) fn spec(alias: &str, fields: &[(&str, Kind)]) -> IndexSpec {
    let column = |name: &str, kind: &Kind| Column { name: name.into(), kind: kind.clone() };
    IndexSpec {
        alias: alias.to_owned(),
        pipeline: "test".to_owned(),
        fields: fields.iter().map(|(name, kind)| ((*name).to_owned(), column(name, kind))).collect(),
        shape_hash: "shape".to_owned(),
        ..IndexSpec::default()
    }
}

/// Id, version and document of each action; no document deletes.
pub(crate) fn bulk(alias: &str, actions: &[(&str, u64, Option<Value>)]) -> Bulk {
    let mut body = String::new();
    for (id, version, document) in actions {
        let meta = json!({ "_index": alias, "_id": id, "version": version, "version_type": "external_gte" });
        match document {
            Some(document) => body.push_str(&format!("{{\"index\":{meta}}}\n{document}\n")),
            None => body.push_str(&format!("{{\"delete\":{meta}}}\n")),
        }
    }
    Bulk { opaque_id: fresh_name("rowtide"), body: Bytes::from(body), actions: actions.len() }
}

fn failed_as(outcome: &Outcome, wanted: u16, part_of_kind: &str) -> bool {
    matches!(outcome, Outcome::Failed { status, kind, .. } if *status == wanted && kind.contains(part_of_kind))
}

pub(crate) async fn t29_t30_t31_versions_decide_and_deletes_carry_them(engines: &[Engine]) {
    use Outcome::{Stale, Written};
    for &engine in engines {
        let (search, alias) = (Search::shared(engine).await, fresh_name("t30"));
        let target = target(&[search.port()]);
        target.create_index(&spec(&alias, &[("n", Kind::Integer { bits: 32 })])).await.unwrap();
        let put = |n: u64| Some(json!({ "n": n }));
        let first = bulk(
            &alias,
            &[
                ("1", 5, put(1)),
                ("1", 5, put(2)),
                ("1", 4, put(3)),
                ("1", 4, None),
                ("2", 9, None),
                ("2", 8, put(4)),
                ("3", 1, put(5)),
                ("3", 2, None),
                ("3", 2, None),
                ("3", 1, put(6)),
            ],
        );
        let outcomes = target.bulk(first).await.unwrap();
        let wanted = [Written, Written, Stale, Stale, Written, Stale, Written, Written, Written, Stale];
        assert_eq!(outcomes, wanted, "{engine:?}");
        assert_eq!(search.http.document(&alias, "1").await.unwrap(), (json!({ "n": 2 }), 5));
        // An hour, so that the version of a deleted document outlives any delay of a minute.
        let settings = search.http.get(&format!("/{alias}/_settings")).await;
        assert_eq!(settings[format!("{alias}-rowtide-1")]["settings"]["index"]["gc_deletes"], "1h");
    }
}

pub(crate) async fn t32_a_poison_document_fails_alone(engines: &[Engine]) {
    for &engine in engines {
        let (search, alias) = (Search::shared(engine).await, fresh_name("t32"));
        let target = target(&[search.port()]);
        target.create_index(&spec(&alias, &[("b", Kind::Boolean)])).await.unwrap();
        let body = |b: Value| Some(json!({ "b": b }));
        let actions =
            [("1", 1, body(json!(true))), ("2", 1, body(json!("poison"))), ("3", 1, body(json!(false)))];
        let outcomes = target.bulk(bulk(&alias, &actions)).await.unwrap();
        assert!(failed_as(&outcomes[1], 400, "parsing_exception"), "{engine:?} {outcomes:?}");
        assert_eq!([&outcomes[0], &outcomes[2]], [&Outcome::Written; 2]);
        assert_eq!(target.index(&alias).await.unwrap().unwrap().documents, 2);
    }
}

pub(crate) async fn t35_every_value_of_a_kind_is_taken_as_it_is(engines: &[Engine]) {
    let list = |kind: Kind| Kind::Array(Box::new(kind));
    let fields = [
        ("boolean", Kind::Boolean),
        ("short", Kind::Integer { bits: 16 }),
        ("integer", Kind::Integer { bits: 32 }),
        ("long", Kind::Integer { bits: 64 }),
        ("float", Kind::Float { bits: 32 }),
        ("double", Kind::Float { bits: 64 }),
        ("decimal", Kind::Decimal),
        ("text", Kind::Text),
        ("keyword", Kind::Keyword),
        ("binary", Kind::Binary),
        ("date", Kind::Date),
        ("timestamp", Kind::Timestamp),
        ("json", Kind::Json),
        ("list", list(list(Kind::Integer { bits: 32 }))),
        ("größe", Kind::Text),
    ];
    let documents = [
        r#"{"boolean":true,"short":-32768,"integer":-2147483648,"long":-9223372036854775808,"float":3.4028235e38,"double":1.7976931348623157e308,"decimal":12345678901234567890.123456789,"text":"a b","keyword":"a b","binary":"AAEC/w==","date":"2026-01-02","timestamp":"2026-01-02T03:04:05.123456Z","json":{"a":{"b":[1,"x"]}},"list":[[1,2],[3,null]],"größe":"x"}"#,
        r#"{"float":"NaN","double":"-Infinity","decimal":"NaN","date":"infinity","timestamp":"-infinity","json":5,"list":null}"#,
        r#"{"float":1.4e-45,"double":5e-324,"decimal":1e400,"date":"10000-01-01","timestamp":"2026-01-02T03:04:05","json":"text","list":[]}"#,
        r#"{"date":"0044-03-15 BC","timestamp":"0044-03-15T00:00:00 BC","json":[1,{"a":2},null],"boolean":null,"text":null,"later":"not in the mapping"}"#,
        r#"{"date":"0001-01-01","timestamp":"294276-12-31T23:59:59.999999Z","json":null,"decimal":-0.000000000000000000000000000000000000001}"#,
    ];
    for &engine in engines {
        let (search, alias) = (Search::shared(engine).await, fresh_name("t35"));
        let target = target(&[search.port()]);
        target.create_index(&spec(&alias, &fields)).await.unwrap();
        let mut body = String::new();
        for (id, document) in documents.iter().enumerate() {
            let meta = json!({ "_index": alias, "_id": id.to_string(), "version": 1, "version_type": "external_gte" });
            body.push_str(&format!("{{\"index\":{meta}}}\n{document}\n"));
        }
        let text = "w".repeat(20_000);
        let long = json!({ "text": text, "keyword": text });
        body.push_str(&format!(
            "{{\"index\":{}}}\n{long}\n",
            json!({ "_index": alias, "_id": "long", "version": 1, "version_type": "external_gte" })
        ));
        let request =
            Bulk { opaque_id: fresh_name("rowtide"), body: body.into(), actions: documents.len() + 1 };
        for (id, outcome) in target.bulk(request).await.unwrap().iter().enumerate() {
            assert_eq!(*outcome, Outcome::Written, "{engine:?} document {id}");
        }
        // Every digit stays, as bytes (a `filter_path` would have the server write it anew).
        let raw = search.http.text(Method::GET, &format!("/{alias}/_doc/0"), None).await;
        assert!(raw.contains("12345678901234567890.123456789"), "{raw}");
        assert_eq!(search.http.count(&alias, json!({ "term": { "long": i64::MIN } })).await, 1);
        let dates = json!({ "range": { "timestamp": { "gte": "2026-01-02T03:04:05.123" } } });
        assert_eq!(search.http.count(&alias, dates).await, 1);
    }
}

pub(crate) async fn t45_only_create_index_makes_an_index(engines: &[Engine]) {
    for &engine in engines {
        let (search, alias) = (Search::shared(engine).await, fresh_name("t45"));
        let target = target(&[search.port()]);
        let other = fresh_name("t45other");
        let put = || Some(json!({ "a": 1 }));
        target.create_index(&spec(&other, &[])).await.unwrap();
        let requests: [&[(&str, u64, Option<Value>)]; 3] =
            [&[("1", 1, None)], &[("1", 1, put())], &[("1", 1, None), ("2", 1, put())]];
        for actions in requests {
            for outcome in target.bulk(bulk(&alias, actions)).await.unwrap() {
                assert!(failed_as(&outcome, 404, "index_not_found_exception"), "{engine:?} {outcome:?}");
            }
            assert_eq!(target.index(&alias).await.unwrap(), None, "{engine:?}");
        }
        // Beside puts into another index, which is there.
        let mut mixed = bulk(&alias, &[("1", 1, None)]);
        let puts = bulk(&other, &[("1", 1, put())]);
        mixed.body = [&mixed.body[..], &puts.body[..]].concat().into();
        mixed.actions = 2;
        let outcomes = target.bulk(mixed).await.unwrap();
        assert!(failed_as(&outcomes[0], 404, "index_not_found_exception"), "{engine:?} {outcomes:?}");
        assert_eq!(outcomes[1], Outcome::Written);
        assert_eq!(target.index(&alias).await.unwrap(), None, "{engine:?}");
    }
}

pub(crate) async fn t45_an_index_that_was_made_again_has_another_uuid_and_a_plain_one_is_refused(
    engines: &[Engine],
) {
    for &engine in engines {
        let (search, alias) = (Search::shared(engine).await, fresh_name("t45"));
        let target = target(&[search.port()]);
        let wanted = spec(&alias, &[("a", Kind::Text)]);
        let first = target.create_index(&wanted).await.unwrap();
        assert_eq!((first.name.as_str(), first.documents), (&*format!("{alias}-rowtide-1"), 0));
        assert_eq!((first.pipeline.as_deref(), first.shape_hash.as_deref()), (Some("test"), Some("shape")));
        // Asked again, since the first answer may have been lost.
        assert_eq!(target.create_index(&wanted).await.unwrap(), first);
        target.bulk(bulk(&alias, &[("1", 1, Some(json!({ "a": "x" })))])).await.unwrap();
        // Not refreshed, and counted all the same.
        assert_eq!(target.index(&alias).await.unwrap().unwrap().documents, 1);
        let taken = target.create_index(&wanted).await;
        assert!(matches!(taken, Err(TargetError::Conflict { .. })), "{engine:?} {taken:?}");
        target.delete_index(&first.name).await.unwrap();
        target.delete_index(&first.name).await.unwrap();
        assert_eq!(target.index(&alias).await.unwrap(), None);
        assert_ne!(target.create_index(&wanted).await.unwrap().uuid, first.uuid);

        let plain = fresh_name("t45plain");
        search.http.json(Method::PUT, &format!("/{plain}"), Some(json!({}))).await;
        let found = target.index(&plain).await.unwrap().unwrap();
        assert_eq!((&found.name, found.pipeline), (&plain, None));
        let refused = target.create_index(&spec(&plain, &[])).await;
        assert!(
            matches!(&refused, Err(TargetError::Halt { hint, .. }) if hint.contains(&plain)),
            "{refused:?}"
        );
        let outcomes = target.bulk(bulk(&plain, &[("1", 1, Some(json!({})))])).await.unwrap();
        assert!(failed_as(&outcomes[0], 404, "index_not_found_exception"), "{engine:?} {outcomes:?}");
    }
}

pub(crate) async fn all_ids_are_listed_page_by_page(engines: &[Engine]) {
    for &engine in engines {
        let (search, alias) = (Search::shared(engine).await, fresh_name("ids"));
        let target = target(&[search.port()]);
        target.create_index(&spec(&alias, &[])).await.unwrap();
        let ids: Vec<String> = (0..2_500).map(|n| format!("id \"{n}\"")).collect();
        let actions: Vec<_> = ids.iter().map(|id| (id.as_str(), 1, Some(json!({})))).collect();
        target.bulk(bulk(&alias, &actions)).await.unwrap();
        let (mut listed, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = target.ids(&alias, cursor, 1_000).await.unwrap();
            assert!(page.ids.len() <= 1_000);
            listed.extend(page.ids);
            pages += 1;
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        listed.sort();
        let mut wanted: Vec<(String, u64)> = ids.iter().map(|id| (id.clone(), 1)).collect();
        wanted.sort();
        assert!(listed == wanted && pages == 4, "{engine:?}: {} ids in {pages} pages", listed.len());
        let gone = target.ids(&alias, Some("bm90IGEgc2Nyb2xs".to_owned()), 10).await;
        assert!(gone.is_err(), "{gone:?}");
    }
}

pub(crate) async fn the_state_document_changes_only_by_compare_and_set(engines: &[Engine]) {
    for &engine in engines {
        let (search, id) = (Search::shared(engine).await, fresh_name("a pipeline/ö"));
        let target = target(&[search.port()]);
        assert_eq!(target.load_state(&id).await.unwrap(), None);
        let mut document = StateDocument {
            format: 1,
            identity: "x".to_owned(),
            base: -5,
            ceiling: (1 << 53) - 1,
            lease: None,
            indices: [("a".to_owned(), "u".to_owned())].into(),
        };
        let first = target.save_state(&id, &document, None).await.unwrap();
        let again = target.save_state(&id, &document, None).await;
        assert!(matches!(again, Err(TargetError::Conflict { .. })), "{engine:?} {again:?}");
        document.base = 7;
        let second = target.save_state(&id, &document, Some(first)).await.unwrap();
        let late = target.save_state(&id, &document, Some(first)).await;
        assert!(matches!(late, Err(TargetError::Conflict { .. })), "{engine:?} {late:?}");
        let stored = target.load_state(&id).await.unwrap().unwrap();
        assert_eq!((stored.document, stored.revision), (document, second));
        let settings = search.http.get("/rowtide-state/_settings").await;
        assert_eq!(settings["rowtide-state"]["settings"]["index"]["hidden"], "true");
        let newer = fresh_name("newer");
        let body = json!({ "format": 2 });
        search.http.json(Method::PUT, &format!("/rowtide-state/_doc/{newer}"), Some(body)).await;
        let refused = target.load_state(&newer).await.unwrap_err();
        assert!(refused.to_string().contains("format 2"), "{refused}");
    }
}

pub(crate) async fn a_lease_is_held_renewed_and_given_back(engines: &[Engine]) {
    for &engine in engines {
        let search = Search::shared(engine).await;
        let (target, world) = (Arc::new(target(&[search.port()])), RealWorld::shared());
        let claim = Claim { id: fresh_name("lease"), store: "store".to_owned(), store_is_locked: true };
        let (lease, found) =
            Lease::acquire(target.clone(), world.clone(), claim.clone(), &|_| ()).await.unwrap();
        assert!(found.is_none() && lease.is_valid());
        lease.ensure_ceiling(5).await.unwrap();
        let mut standing = lease.standing();
        standing.borrow_and_update();
        tokio::time::timeout(Duration::from_secs(5), standing.changed()).await.expect("a renewal").unwrap();
        lease.release(Some(5)).await.unwrap();
        let (lease, found) = Lease::acquire(target.clone(), world, claim, &|_| ()).await.unwrap();
        assert_eq!(found.map(|document| (document.ceiling, document.lease)), Some((5, None)));
        assert!(lease.found_clean());
    }
}

pub(crate) async fn a_running_request_is_found_by_its_name(engines: &[Engine]) {
    for &engine in engines {
        let (search, alias) = (Search::shared(engine).await, fresh_name("running"));
        let target = target(&[search.port()]);
        target.create_index(&spec(&alias, &[("text", Kind::Text)])).await.unwrap();
        let text: String = (0..40_000).map(|n| format!("word{n} ")).collect();
        let ids: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        let (mut seen, mut version) = (false, 0);
        // On a busy machine the work may be done before anybody has asked for it.
        while !seen && version < 20 {
            version += 1;
            let document = json!({ "text": text });
            let actions: Vec<_> =
                ids.iter().map(|id| (id.as_str(), version, Some(document.clone()))).collect();
            let request = bulk(&alias, &actions);
            let name = request.opaque_id.clone();
            let mut work = Box::pin(target.bulk(request));
            let outcomes = loop {
                tokio::select! {
                    outcomes = &mut work => break outcomes.unwrap(),
                    running = target.is_running(&name) => seen |= running.unwrap(),
                }
            };
            assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Written));
            // Elasticsearch 9 answers a moment before it strikes the task off its list.
            poll_until("the end of the task", Duration::from_secs(10), async || {
                (!target.is_running(&name).await.unwrap()).then_some(())
            })
            .await;
        }
        assert!(seen, "{engine:?}: never seen");
        assert!(!target.is_running("another").await.unwrap());
    }
}

pub(crate) async fn what_is_not_known_is_said_so_and_nothing_is_sent_twice(engines: &[Engine]) {
    for &engine in engines {
        let (search, alias) = (Search::shared(engine).await, fresh_name("lost"));
        let proxy = Proxy::start(search.port()).await;
        let target = target(&[proxy.port]);
        target.create_index(&spec(&alias, &[])).await.unwrap();
        let send = |version| target.bulk(bulk(&alias, &[("1", version, Some(json!({})))]));
        proxy.drop_answers(1);
        let lost = send(1).await;
        assert!(matches!(lost, Err(TargetError::Unresolved { .. })), "{engine:?} {lost:?}");
        assert_eq!(proxy.requests(), 1);
        proxy.refuse(1);
        let busy = send(2).await;
        assert!(matches!(busy, Err(TargetError::Busy { .. })), "{engine:?} {busy:?}");
        assert_eq!(send(3).await.unwrap(), [Outcome::Written]);
        assert_eq!((proxy.requests(), search.http.document(&alias, "1").await.unwrap().1), (2, 3));
    }
}

pub(crate) async fn a_node_that_is_away_is_passed_over(engines: &[Engine]) {
    for &engine in engines {
        let (search, alias) = (Search::shared(engine).await, fresh_name("nodes"));
        // Bound and closed again: nobody listens there.
        let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let alone = target(&[away]);
        let refused = alone.index(&alias).await;
        assert!(matches!(refused, Err(TargetError::NotExecuted { .. })), "{refused:?}");
        let both = target(&[away, search.port()]);
        for _ in 0..4 {
            assert_eq!(both.index(&alias).await.unwrap(), None);
        }
    }
}

pub(crate) async fn t33_a_body_beyond_the_limit_is_too_large_or_unresolved(engines: &[Engine]) {
    for &engine in engines {
        let search = Search::start(engine, &["http.max_content_length=1mb"]).await;
        let (target, alias) = (target(&[search.port()]), fresh_name("t33"));
        target.create_index(&spec(&alias, &[])).await.unwrap();
        let text = "x".repeat(8 << 20);
        let sent = target.bulk(bulk(&alias, &[("1", 1, Some(json!({ "text": text })))])).await;
        println!("{engine:?}: {sent:?}");
        // Some close the socket while the body is still being sent instead of answering 413.
        assert!(
            matches!(sent, Err(TargetError::TooLarge { .. } | TargetError::Unresolved { .. })),
            "{engine:?} {sent:?}"
        );
        let small = target.bulk(bulk(&alias, &[("1", 1, Some(json!({})))])).await.unwrap();
        assert_eq!(small, [Outcome::Written]);
        // It is what the bytes become that counts: 8 MiB of one letter are 36 KiB on the wire.
        let packing = packing(search.port());
        let sent = packing.bulk(bulk(&alias, &[("2", 1, Some(json!({ "text": text })))])).await;
        println!("{engine:?}, compressed: {sent:?}");
        assert!(
            matches!(sent, Err(TargetError::TooLarge { .. } | TargetError::Unresolved { .. })),
            "{engine:?} {sent:?}"
        );
        assert!(search.http.document(&alias, "2").await.is_none(), "{engine:?}");
    }
}

/// With `gzip` and `sniff`.
fn packing(port: u16) -> Elasticsearch {
    let settings = Settings::new(vec![format!("http://127.0.0.1:{port}")]);
    Elasticsearch::new(Settings { gzip: true, sniff: true, ..settings }, RealWorld::shared()).unwrap()
}

pub(crate) async fn compressed_requests_to_nodes_that_the_cluster_names_write_the_same_documents(
    engines: &[Engine],
) {
    for &engine in engines {
        let (search, alias) = (Search::shared(engine).await, fresh_name("packed"));
        let proxy = Proxy::start(search.port()).await;
        let target = packing(proxy.port);
        target.create_index(&spec(&alias, &[("text", Kind::Text)])).await.unwrap();
        let text = |n: usize| format!("wörter \"{n}\" \\ ").repeat(200);
        let ids: Vec<String> = (0..500).map(|n| n.to_string()).collect();
        let actions: Vec<_> =
            (0..500).map(|n| (ids[n].as_str(), 7, Some(json!({ "text": text(n) })))).collect();
        let outcomes = target.bulk(bulk(&alias, &actions)).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Written), "{engine:?} {outcomes:?}");
        let deletes: Vec<_> = ids[..100].iter().map(|id| (id.as_str(), 8, None)).collect();
        let outcomes = target.bulk(bulk(&alias, &deletes)).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Written), "{engine:?} {outcomes:?}");
        for n in [100, 250, 499] {
            let (document, version) = search.http.document(&alias, &ids[n]).await.unwrap();
            assert_eq!((document["text"].as_str(), version), (Some(text(n).as_str()), 7), "{engine:?} {n}");
        }
        assert!(search.http.document(&alias, "99").await.is_none());
        // The cluster names its own address, and the configured one is only where it is asked.
        assert_eq!(proxy.requests(), 0, "{engine:?}");
        assert_eq!(target.look().await.unwrap(), None, "{engine:?}");
    }
}
