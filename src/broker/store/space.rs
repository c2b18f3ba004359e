//! When the disk says no: a full disk refuses appends and passes; anything else ends the process.

use super::types::FatalReason;
use super::{LogStore, StoreState};
use coreline_io::{IoError, IoErrorKind, Runtime};

impl<R: Runtime> LogStore<R> {
    /// Durability is in doubt: stops everything and calls the hook, once.
    pub(super) fn die(&self, reason: FatalReason, error: &IoError) {
        if self.state.replace(StoreState::Dead) == StoreState::Dead {
            return;
        }
        tracing::error!(?reason, %error, "durability is in doubt, the process must stop");
        (self.options.fatal)(reason, error.to_string());
        self.writer.wake.notify_all();
        self.flusher.wake.notify_all();
        self.cleaner.wake.notify_all();
    }

    /// A write found no room. Appends are refused until one succeeds again.
    pub(super) fn space_ran_out(&self, what: &str, error: &IoError) {
        if !self.full.replace(true) {
            tracing::warn!(shard = self.options.shard, %error, "no space for the {what}: appends are refused, reads go on");
        }
        self.progress.notify_all();
        self.journal.changed.notify_all();
    }

    /// Zero-filling failed: the journal goes on growing file by file.
    pub(super) fn fill_failed(&self, error: &IoError) {
        if error.kind == IoErrorKind::StorageFull {
            tracing::warn!(%error, "no space to fill the journal ahead");
        } else {
            self.die(FatalReason::JournalWrite, error);
        }
    }

    /// True until the store has stopped or died.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state.get(), StoreState::Open | StoreState::Closing)
    }
}
