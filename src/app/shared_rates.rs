//! Shares rate-limit counts between replicas through the session store.
//!
//! Every `SHARE_INTERVAL` this replica adds its counts to the store and learns the sums over all replicas. While the
//! store does not answer, each replica limits by its own counts alone; counts of that time are dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::base::{clock, digest};
use crate::gate::Gate;
use crate::limits::{PassedRequests, SharedRate};

const SHARE_INTERVAL: Duration = Duration::from_millis(200);
/// Counts in one call to the store.
const BATCH: usize = 256;

/// Runs until `stop`; returns at once if no rate is shared.
pub(super) async fn run(gate: Arc<Gate>, stop: CancellationToken) {
    let rates = [gate.limits.shared(), gate.identity.accounts.shared_rates()].concat();
    if rates.is_empty() {
        return;
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SHARE_INTERVAL) => {}
        }
        for rate in &rates {
            share(&gate, rate).await;
        }
    }
}

/// Stops at the first batch that the store does not take; that batch and the rest are dropped.
async fn share(gate: &Gate, rate: &SharedRate) {
    let window = rate.window(clock::since_epoch());
    let end = Instant::now() + window.left;
    for batch in rate.take().chunks(BATCH) {
        let counts: Vec<([u8; 32], u64)> = batch
            .iter()
            .map(|passed| (window_key(passed, window.number), u64::from(passed.count)))
            .collect();
        match gate.sessions.add(rate.area(), &counts, rate.memory()).await {
            Ok(totals) => {
                for (passed, total) in batch.iter().zip(totals) {
                    rate.learn(passed.key, total, end);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "rates were not shared");
                return;
            }
        }
    }
}

fn window_key(passed: &PassedRequests, window: u64) -> [u8; 32] {
    digest::sha256_of(&[&passed.key[..], &window.to_be_bytes()])
}
