//! Which node is asked next.
//!
//! ```text
//!   well ──no connection, no answer, 502–504──► aside (10 s, 20 s, 40 s, 60 s)
//!    ▲                                            │ its time is up
//!    └────────────── it answers ◄── one request ◄─┘  (all others go elsewhere meanwhile)
//! ```
//! The configured nodes are the seeds. What the cluster itself names (`sniff = true`) goes before them;
//! the seeds are asked when it names none or all of those are aside. When every node is aside, the one
//! that failed longest ago is asked: waiting is the retry policy's business.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;
use sources::world::Moment;

use super::wrong_settings;
use crate::target::TargetError;

/// How long a node that failed is not asked, while another can be. Longer than a connection attempt
/// (5 s), so that a dead node does not slow every second request; short enough for a restarted one.
const ASIDE_FIRST: Duration = Duration::from_secs(10);
/// Doubled at each failure up to this: a node that is gone for good costs one request in a minute.
const ASIDE_MOST: Duration = Duration::from_secs(60);

/// A node's address and how it fares.
pub(super) struct Node {
    /// Without a slash at its end.
    pub(super) base: String,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    /// One after another, without an answer between.
    failures: u32,
    failed_at: Moment,
    aside_until: Moment,
    is_tried: bool,
}

impl Node {
    fn new(base: String) -> Arc<Self> {
        Arc::new(Self { base, health: Mutex::default() })
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }
}

/// A node that is asked; it counts as well once that is said.
pub(super) struct Pick {
    pub(super) node: Arc<Node>,
    is_try: bool,
}

impl Pick {
    /// It answered.
    pub(super) fn answered(&self) {
        let mut health = self.node.health();
        (health.failures, health.aside_until) = (0, Moment::ZERO);
    }

    /// It did not. Requests that failed side by side count once.
    pub(super) fn failed(&self, now: Moment) {
        let mut health = self.node.health();
        health.failed_at = now;
        if now < health.aside_until {
            return;
        }
        let aside = ASIDE_FIRST * 2_u32.pow(health.failures.min(3));
        health.failures = health.failures.saturating_add(1);
        health.aside_until = now + aside.min(ASIDE_MOST);
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        if self.is_try {
            self.node.health().is_tried = false;
        }
    }
}

/// All nodes.
pub(super) struct Nodes {
    seeds: Vec<Arc<Node>>,
    /// What the cluster named last.
    found: Mutex<Vec<Arc<Node>>>,
    turn: AtomicUsize,
}

impl Nodes {
    pub(super) fn new(addresses: &[String]) -> Result<Self, TargetError> {
        let seeds = addresses.iter().map(|address| parse(address).map(Node::new));
        let seeds = seeds.collect::<Result<Vec<_>, _>>()?;
        if seeds.is_empty() {
            return Err(wrong_settings("no node is given", "name at least one in `nodes`"));
        }
        Ok(Self { seeds, found: Mutex::default(), turn: AtomicUsize::new(0) })
    }

    #[cfg(feature = "fuzzing")]
    pub(super) fn none() -> Self {
        Self { seeds: Vec::new(), found: Mutex::default(), turn: AtomicUsize::new(0) }
    }

    /// How many there are to try.
    pub(super) fn count(&self) -> usize {
        self.seeds.len() + lock(&self.found).len()
    }

    /// `https` as soon as one seed has it: what was meant to be hidden never goes out in the open.
    pub(super) fn scheme(&self) -> &'static str {
        match self.seeds.iter().any(|seed| seed.base.starts_with("https:")) {
            true => "https",
            false => "http",
        }
    }

    /// What the cluster names from now on, as bases; a node that is known keeps its health. Whether
    /// anything is another than before.
    pub(super) fn set_found(&self, bases: Vec<String>) -> bool {
        let mut found = lock(&self.found);
        let known = |base: &str| {
            let mut all = found.iter().chain(&self.seeds);
            all.find(|node| node.base == base).cloned().unwrap_or_else(|| Node::new(base.to_owned()))
        };
        let next: Vec<_> = bases.iter().map(|base| known(base)).collect();
        let is_new = next.len() != found.len()
            || !next.iter().zip(found.iter()).all(|(one, other)| one.base == other.base);
        *found = next;
        is_new
    }

    /// The next node in turn that is well or due to be tried again, else the one whose failure is oldest.
    pub(super) fn pick(&self, now: Moment) -> Option<Pick> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let found = lock(&self.found);
        let ready = [&found[..], &self.seeds].into_iter().find_map(|nodes| {
            let first = turn % nodes.len().max(1);
            nodes[first..].iter().chain(&nodes[..first]).find_map(|node| take(node, now))
        });
        ready.or_else(|| {
            let oldest = found.iter().chain(&self.seeds).min_by_key(|node| node.health().failed_at)?;
            Some(Pick { node: oldest.clone(), is_try: false })
        })
    }
}

fn take(node: &Arc<Node>, now: Moment) -> Option<Pick> {
    let mut health = node.health();
    if health.failures == 0 {
        return Some(Pick { node: node.clone(), is_try: false });
    }
    if health.is_tried || now < health.aside_until {
        return None;
    }
    health.is_tried = true;
    Some(Pick { node: node.clone(), is_try: true })
}

/// What a panic left behind is still a list, or a time.
fn lock<T>(locked: &Mutex<T>) -> MutexGuard<'_, T> {
    locked.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parse(address: &str) -> Result<String, TargetError> {
    let form = "write it as http://host:9200 or https://host:9200";
    let Ok(url) = Url::parse(address) else {
        return Err(wrong_settings("a node's address cannot be read", form));
    };
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "put them into `username` and `password` of the target";
        return Err(wrong_settings("a node's address holds a user or a password", hint));
    }
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong_settings(&format!("the node's address {address:?} is not one"), form));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn nodes(names: &[&str]) -> Nodes {
        let addresses: Vec<String> = names.iter().map(|name| format!("http://{name}")).collect();
        Nodes::new(&addresses).unwrap()
    }

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    /// The nodes that the next requests go to, all under way at once.
    fn picked(nodes: &Nodes, now: Moment, count: usize) -> (Vec<Pick>, String) {
        let picks: Vec<Pick> = (0..count).map(|_| nodes.pick(now).unwrap()).collect();
        let mut names: Vec<_> =
            picks.iter().map(|pick| pick.node.base["http://".len()..].to_owned()).collect();
        names.sort();
        (picks, names.concat())
    }

    fn fail(nodes: &Nodes, name: &str, now: Moment) {
        let seeds = nodes.seeds.iter().chain(&*lock(&nodes.found)).cloned().collect::<Vec<_>>();
        let node = seeds.into_iter().find(|node| node.base.ends_with(name)).unwrap();
        Pick { node, is_try: false }.failed(now);
    }

    #[test]
    fn a_node_is_an_address_without_secrets() {
        assert_eq!(parse("https://es.example:9200/").unwrap(), "https://es.example:9200");
        assert_eq!(parse("http://es.example/prefix/").unwrap(), "http://es.example/prefix");
        for wrong in ["es:9200", "http://u:p@es", "", "ftp://es", "http://es?x=1"] {
            let error = parse(wrong).unwrap_err();
            assert!(!error.to_string().contains("u:p"), "{error}");
        }
    }

    #[test]
    fn nodes_are_asked_in_turn_and_one_that_failed_is_left_alone() {
        let nodes = nodes(&["a", "b", "c"]);
        assert_eq!(picked(&nodes, at(0), 6).1, "aabbcc");
        fail(&nodes, "b", at(0));
        let (_picks, names) = picked(&nodes, at(9), 6);
        assert!(!names.contains('b'), "{names}");
    }

    #[test]
    fn one_request_tries_a_node_again_and_the_others_go_elsewhere() {
        let nodes = nodes(&["a", "b"]);
        fail(&nodes, "b", at(0));
        let (picks, names) = picked(&nodes, at(10), 6);
        assert_eq!(names, "aaaaab");
        picks.iter().find(|pick| pick.is_try).unwrap().answered();
        assert_eq!(picked(&nodes, at(10), 6).1, "aaabbb");
    }

    #[test]
    fn a_try_that_is_given_up_leaves_the_next_one_free() {
        let nodes = nodes(&["a", "b"]);
        fail(&nodes, "b", at(0));
        for _ in 0..3 {
            assert_eq!(picked(&nodes, at(10), 4).1, "aaab");
        }
    }

    #[test]
    fn each_failure_sets_aside_for_longer_up_to_a_minute() {
        let nodes = nodes(&["a", "b"]);
        let mut now = 0;
        for aside in [10, 20, 40, 60, 60] {
            // Four lanes fail at once: one failure.
            (0..4).for_each(|_| fail(&nodes, "b", at(now)));
            assert_eq!(picked(&nodes, at(now + aside - 1), 4).1, "aaaa", "{aside}");
            assert_eq!(picked(&nodes, at(now + aside), 4).1, "aaab", "{aside}");
            now += aside;
        }
    }

    #[test]
    fn when_all_are_aside_the_oldest_failure_is_asked() {
        let nodes = nodes(&["a", "b"]);
        fail(&nodes, "b", at(1));
        fail(&nodes, "a", at(2));
        assert_eq!(picked(&nodes, at(3), 4).1, "bbbb");
    }

    #[test]
    fn what_the_cluster_names_goes_before_the_seeds_until_all_of_it_fails() {
        let nodes = nodes(&["seed"]);
        let bases = |names: &[&str]| names.iter().map(|name| format!("http://{name}")).collect::<Vec<_>>();
        assert!(nodes.set_found(bases(&["x", "y"])));
        assert!(!nodes.set_found(bases(&["x", "y"])));
        assert_eq!(picked(&nodes, at(0), 4).1, "xxyy");
        fail(&nodes, "x", at(0));
        assert_eq!(picked(&nodes, at(0), 4).1, "yyyy");
        fail(&nodes, "y", at(1));
        assert_eq!(picked(&nodes, at(1), 2).1, "seedseed");
        // Named again, it is still the node that failed.
        assert!(nodes.set_found(bases(&["x", "seed"])));
        assert_eq!(picked(&nodes, at(1), 2).1, "seedseed");
        assert!(nodes.set_found(Vec::new()));
        assert_eq!(picked(&nodes, at(1), 2).1, "seedseed");
    }
}
