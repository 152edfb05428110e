//! Tells the store what passed here, and learns what passed everywhere: rates that all replicas count together.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;
use crate::limits::{PassedRequests, SharedRate};

/// How often replicas tell each other.
const TELL_INTERVAL: Duration = Duration::from_millis(200);
/// What is told at once.
const BATCH: usize = 256;

/// Runs until stopped; does nothing where nothing is shared.
pub(super) async fn run(gate: Arc<Gate>, stop: CancellationToken) {
    let all = [gate.limits.shared(), gate.identity.accounts.shared_rates()].concat();
    if all.is_empty() {
        return;
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TELL_INTERVAL) => {}
        }
        for shared in &all {
            tell(&gate, shared).await;
        }
    }
}

/// What could not be told is forgotten: each replica still counts for itself.
async fn tell(gate: &Gate, shared: &SharedRate) {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let window = shared.window(since_1970);
    let end = Instant::now() + window.left;
    for batch in shared.take().chunks(BATCH) {
        let keys: Vec<([u8; 32], u64)> = batch
            .iter()
            .map(|passed| (in_window(passed, window.number), u64::from(passed.count)))
            .collect();
        match gate.sessions.add(shared.area(), &keys, shared.memory()).await {
            Ok(totals) => {
                for (passed, total) in batch.iter().zip(totals) {
                    shared.learn(passed.key, total, end);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "rates were not shared");
                return;
            }
        }
    }
}

fn in_window(passed: &PassedRequests, window: u64) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, &[&passed.key[..], &window.to_be_bytes()].concat()).as_ref());
    key
}
