//! Server-sent events: the page hears that the files of the tree changed.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::sync::{mpsc, watch};

use super::answer::{Body, with};

/// Time without a change after which a comment finds out if the reader is still there.
const PULSE: Duration = Duration::from_secs(15);

/// Sends the tree's identity at once, and each new one. Ends with the reader, or with the process.
pub(super) fn answer(mut tree: watch::Receiver<String>) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        tree.mark_changed();
        loop {
            let event = match tokio::time::timeout(PULSE, tree.changed()).await {
                Ok(Ok(())) => format!("event: tree\ndata: {}\n\n", tree.borrow_and_update().as_str()),
                Ok(Err(_ended)) => return,
                Err(_quiet) => ": \n\n".to_owned(),
            };
            if sender.send(Bytes::from(event)).await.is_err() {
                return;
            }
        }
    });
    with(StatusCode::OK, "text/event-stream", Body::Events(receiver))
}
