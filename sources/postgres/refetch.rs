//! Keys whose rows have to be read again, since their change did not carry every column (T07).
//!
//! A key is collected until the worker is free or a job is full, then it goes to it as one of a batch. Each has a ticket; a checkpoint waits until no older ticket is open, so nothing is
//! acknowledged before its row has entered the stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::catalog::TableInfo;
use super::progress::KeyText;
use super::reads::Refetch;
use crate::change::Row;

/// Keys of one statement.
const KEYS_PER_JOB: usize = 250;
/// Memory of a waiting key beside its bytes.
const KEY_BYTES: usize = 160;

pub(super) struct Refetches {
    worker: mpsc::UnboundedSender<Refetch>,
    /// Collected, by table.
    collected: Vec<Refetch>,
    /// Jobs that the worker has.
    sent: usize,
    /// Tickets whose rows have not entered the stream, with their bytes.
    open: BTreeMap<u64, usize>,
    bytes: usize,
    next: u64,
}

impl Refetches {
    pub(super) fn new(worker: mpsc::UnboundedSender<Refetch>) -> Self {
        Self { worker, collected: Vec::new(), sent: 0, open: BTreeMap::new(), bytes: 0, next: 0 }
    }

    /// A row to read again.
    pub(super) fn add(&mut self, table: Arc<TableInfo>, texts: KeyText, key: Row) {
        let ticket = self.next;
        self.next += 1;
        let bytes = KEY_BYTES + key.heap_bytes() + texts.iter().map(String::len).sum::<usize>();
        self.bytes += bytes;
        self.open.insert(ticket, bytes);
        let job = match self.collected.iter_mut().position(|job| Arc::ptr_eq(&job.table, &table)) {
            Some(place) => place,
            None => {
                self.collected.push(Refetch { table, keys: Vec::new() });
                self.collected.len() - 1
            }
        };
        self.collected[job].keys.push((texts, key, ticket));
        if self.collected[job].keys.len() >= KEYS_PER_JOB {
            let full = self.collected.swap_remove(job);
            self.send(full);
        }
    }

    /// Hands everything collected to the worker, if it has nothing to do: many keys for each statement.
    pub(super) fn send_if_free(&mut self) {
        if self.sent > 0 {
            return;
        }
        for job in std::mem::take(&mut self.collected) {
            self.send(job);
        }
    }

    fn send(&mut self, job: Refetch) {
        self.sent += 1;
        // A worker that has gone has said why; the reader hears it.
        let _ = self.worker.send(job);
    }

    /// These rows have entered the stream, or the log's own later image has; `job` tells that they were
    /// the last of their job.
    pub(super) fn done(&mut self, tickets: &[u64], job: bool) {
        self.sent -= usize::from(job);
        for ticket in tickets {
            self.bytes -= self.open.remove(ticket).unwrap_or(0);
        }
    }

    /// The oldest ticket that is open.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.open.first_key_value().map(|(ticket, _)| *ticket)
    }

    /// The ticket that the next key will have.
    pub(super) fn next_ticket(&self) -> u64 {
        self.next
    }

    /// Bytes of the keys that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
