//! Elasticsearch 7.17 to 9, OpenSearch 2 and 3: the same requests serve all.
//!
//! ```text
//!   mod ── client    one connection pool, nodes in turn, TLS, login, gzip; what a whole answer means
//!    ├──── product   which cluster it is, asked once
//!    ├──── bulk      the body on the wire, and the guard that keeps deletes from making an index
//!    ├──── response  the bulk answer, item by item
//!    ├──── index     aliases, real indices, what of them is odd, listing ids
//!    ├──── making    a new index, with its settings and mapping
//!    ├──── easing    what is set otherwise while it is filled
//!    ├──── mapping   what a field is, by its column's kind
//!    ├──── extension fields that come to an index which is there already
//!    ├──── proposal  what an index would make of a table, in words
//!    └──── state     law 1's document, by compare-and-set
//! ```
//! Guarantees: a request is sent at most once; an answer counts only when it was read whole and has
//! the expected form; nothing is read without a bound; no index is made but by
//! [`Target::create_index`] (and `rowtide-state` by the first [`Target::save_state`]).

mod bulk;
mod client;
mod easing;
mod extension;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod index;
mod making;
mod mapping;
mod product;
mod proposal;
mod response;
mod state;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sources::world::{BoxFuture, SharedWorld};

pub use client::{Auth, Fingerprint, GZIP_BYTES_MAX, Settings, Trust};
pub use proposal::{mapping_words, takes_field};

use super::{
    Bulk, Extended, IdPage, IndexSpec, IndexState, Outcome, Revision, Standing, StateDocument, Stored,
    Target, TargetError,
};
use client::{Call, Client, failure, parse};

/// Bytes of a bulk answer that is believed: an item is some 30 bytes when it succeeded, and an error's
/// reason is short. Many long reasons together end as `Unresolved`, and the request is split.
const ANSWER_BYTES: usize = 64 << 10;
const ANSWER_BYTES_PER_ACTION: usize = 1 << 10;

/// A cluster of Elasticsearch or OpenSearch.
pub struct Elasticsearch {
    client: Client,
    /// Whether it is known to be a cluster that Rowtide speaks with.
    is_met: AtomicBool,
}

impl Elasticsearch {
    /// Checks the settings; nothing is sent yet.
    pub fn new(settings: Settings, world: SharedWorld) -> Result<Self, TargetError> {
        Ok(Self { client: Client::new(&settings, world)?, is_met: AtomicBool::new(false) })
    }

    /// Looks, for `rowtide check`, whether this is a cluster that Rowtide speaks with. What is odd about
    /// it, if anything; a certificate that is not believed is a halt with its fix.
    pub async fn look(&self) -> Result<Option<String>, TargetError> {
        Ok(product::meet(&self.client, true).await?.oddity())
    }

    /// Asks once what it is; before the state document, which is what every start reads first.
    async fn meet(&self) -> Result<(), TargetError> {
        if !self.is_met.load(Ordering::Relaxed) {
            match product::meet(&self.client, false).await? {
                product::Met::Known(name) => tracing::info!(target = name, "the target"),
                odd => tracing::warn!(what = odd.oddity(), "the target"),
            }
            self.is_met.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sends a bulk request: one attempt, no index made by it.
    async fn send_bulk(&self, request: Bulk) -> Result<Vec<Outcome>, TargetError> {
        let (guards, guard_count) = bulk::guards(&request.body);
        let items = request.actions + guard_count;
        let path = format!("/_bulk?require_alias=true&timeout=5s&{}", response::FILTER);
        let mut call = Call::new("bulk", Method::POST, &path);
        call.opaque_id = Some(&request.opaque_id);
        call.body = Some(client::Payload::Lines(request.body, guards));
        call.answer_bytes_max = ANSWER_BYTES + items * ANSWER_BYTES_PER_ACTION;
        let answer = self.client.send(call).await?;
        match answer.status {
            200 => response::judge(&answer.body, request.actions, items),
            _ => Err(failure("bulk", &answer)),
        }
    }

    async fn find_task(&self, opaque_id: &str) -> Result<bool, TargetError> {
        const CONTEXT: &str = "list tasks";
        let filter = "filter_path=nodes.*.tasks.*.headers,node_failures,task_failures";
        let path = format!("/_tasks?actions=indices:data/write/bulk*&detailed=false&{filter}");
        let answer = self.client.succeed(Call::new(CONTEXT, Method::GET, &path)).await?;
        let list: TaskList = parse(CONTEXT, &answer)?;
        let mut tasks = list.nodes.values().flat_map(|node| node.tasks.values());
        if tasks.any(|task| task.headers.opaque_id.as_deref() == Some(opaque_id)) {
            return Ok(true);
        }
        // A node that did not answer may be the one that runs it.
        if list.node_failures.is_some() || list.task_failures.is_some() {
            let reason = "not every node answered".to_owned();
            return Err(TargetError::Unresolved { context: CONTEXT, reason });
        }
        Ok(false)
    }
}

#[derive(Deserialize)]
struct TaskList {
    #[serde(default)]
    nodes: BTreeMap<String, NodeTasks>,
    node_failures: Option<IgnoredAny>,
    task_failures: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct NodeTasks {
    #[serde(default)]
    tasks: BTreeMap<String, RunningTask>,
}

#[derive(Deserialize)]
struct RunningTask {
    #[serde(default)]
    headers: TaskHeaders,
}

#[derive(Default, Deserialize)]
struct TaskHeaders {
    #[serde(rename = "X-Opaque-Id")]
    opaque_id: Option<String>,
}

impl Target for Elasticsearch {
    fn bulk(&self, request: Bulk) -> BoxFuture<'_, Result<Vec<Outcome>, TargetError>> {
        Box::pin(self.send_bulk(request))
    }

    fn is_running<'a>(&'a self, opaque_id: &'a str) -> BoxFuture<'a, Result<bool, TargetError>> {
        Box::pin(self.find_task(opaque_id))
    }

    fn index<'a>(&'a self, alias: &'a str) -> BoxFuture<'a, Result<Option<IndexState>, TargetError>> {
        Box::pin(index::index(&self.client, alias))
    }

    fn standing<'a>(&'a self, alias: &'a str) -> BoxFuture<'a, Result<Option<Standing>, TargetError>> {
        Box::pin(index::standing(&self.client, alias))
    }

    fn eased<'a>(&'a self, aliases: &'a [String]) -> BoxFuture<'a, Result<Vec<String>, TargetError>> {
        Box::pin(easing::eased(&self.client, aliases))
    }

    fn restore<'a>(&'a self, alias: &'a str) -> BoxFuture<'a, Result<Vec<String>, TargetError>> {
        Box::pin(easing::restore(&self.client, alias))
    }

    fn create_index<'a>(&'a self, spec: &'a IndexSpec) -> BoxFuture<'a, Result<IndexState, TargetError>> {
        Box::pin(making::create(&self.client, spec))
    }

    fn extend_mapping<'a>(&'a self, spec: &'a IndexSpec) -> BoxFuture<'a, Result<Extended, TargetError>> {
        Box::pin(extension::extend(&self.client, spec))
    }

    fn delete_index<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(index::delete(&self.client, name))
    }

    fn refresh<'a>(&'a self, alias: &'a str) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(index::refresh(&self.client, alias))
    }

    fn ids<'a>(
        &'a self,
        alias: &'a str,
        cursor: Option<String>,
        limit: usize,
    ) -> BoxFuture<'a, Result<IdPage, TargetError>> {
        Box::pin(index::ids(&self.client, alias, cursor, limit))
    }

    fn load_state<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Stored>, TargetError>> {
        Box::pin(async move {
            self.meet().await?;
            state::load(&self.client, id).await
        })
    }

    fn save_state<'a>(
        &'a self,
        id: &'a str,
        document: &'a StateDocument,
        seen: Option<Revision>,
    ) -> BoxFuture<'a, Result<Revision, TargetError>> {
        Box::pin(state::save(&self.client, id, document, seen))
    }

    fn delete_state<'a>(&'a self, id: &'a str, seen: Revision) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(state::delete(&self.client, id, seen))
    }
}
