//! An index with `version_type=external_gte`: a write below the stored version is stale.

use std::collections::BTreeMap;

use super::database::{Id, Lsn};

#[derive(Debug, Default)]
pub(super) struct Index {
    /// Version and value; a tombstone has no value.
    documents: BTreeMap<Id, (Lsn, Option<u64>)>,
}

impl Index {
    pub(super) fn write(&mut self, id: Id, value: Option<u64>, version: Lsn) {
        let stored = self.documents.get(&id).map_or(0, |(stored, _)| *stored);
        if version >= stored {
            self.documents.insert(id, (version, value));
        }
    }

    /// TRUNCATE: each document that is there is deleted with the event's version.
    pub(super) fn clear(&mut self, table: u32, version: Lsn) {
        let live = |(id, (_, value)): (&Id, &(Lsn, Option<u64>))| {
            (id.table == table && value.is_some()).then_some(*id)
        };
        let ids: Vec<Id> = self.documents.iter().filter_map(live).collect();
        for id in ids {
            self.write(id, None, version);
        }
    }

    /// A node restarts, or `gc_deletes` has passed (T29): the versions of deletes are forgotten.
    pub(super) fn forget_tombstones(&mut self) {
        self.documents.retain(|_, (_, value)| value.is_some());
    }

    pub(super) fn value(&self, id: Id) -> Option<u64> {
        self.documents.get(&id).and_then(|(_, value)| *value)
    }
}
