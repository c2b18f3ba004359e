//! What a scrape is told of this shard.

use super::Handlers;
use crate::broker::metrics::{Kept, ShardReport, gather};
use coreline_io::Runtime;

impl<R: Runtime> Handlers<R> {
    /// Everything this shard knows; lets others run in between.
    pub async fn report(&self) -> ShardReport {
        let mut kept = {
            let sessions = self.sessions.borrow();
            Kept { sessions: sessions.len(), session_evictions: sessions.evictions(), ..Kept::default() }
        };
        self.groups.each(|groups| {
            let (count, members) = groups.counts();
            kept.groups += count;
            kept.members += members;
        });
        self.transactions.each(|ids| {
            ids.states().for_each(|state| *kept.transactional_ids.entry(state.name()).or_default() += 1);
        });
        gather(&self.shard, kept).await
    }
}
