//! A table under work: what is still to be read of it, and what a read waits for first.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::catalog::TableInfo;
use super::position::Renewal;
use super::progress::Progress;

/// A table under work.
pub(super) struct TableWork {
    pub info: Arc<TableInfo>,
    pub progress: Mutex<Progress>,
    /// Set when nobody holds a write lock on the table any more who held one at the reader's start.
    pub gate: OnceCell<()>,
    /// Why it is read again, until it was.
    pub renewal: Mutex<Option<Renewal>>,
    /// Set when the log was passed up to what those at the gate may have written under the old catalog.
    pub behind: OnceCell<()>,
    /// There is no such table any more.
    pub is_gone: bool,
    /// There is none, and its documents stay: its index is still ours.
    pub is_kept: bool,
}

impl TableWork {
    pub(super) fn new(info: Arc<TableInfo>, progress: Progress, renewal: Option<Renewal>) -> Self {
        Self {
            info,
            progress: Mutex::new(progress),
            gate: OnceCell::new(),
            renewal: Mutex::new(renewal),
            behind: OnceCell::new(),
            is_gone: false,
            is_kept: false,
        }
    }

    pub(super) fn renewal(&self) -> Option<Renewal> {
        *self.renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was read again, and swept.
    pub(super) fn renewed(&self) {
        *self.renewal.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn with_progress<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
