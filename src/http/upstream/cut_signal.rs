//! The signal that ends a live response or tunnel from outside.
//!
//! The gate holds one end and calls `cut`; the response body or the tunnel task holds the other and polls it. Exactly
//! one task waits on a signal, so one stored waker is enough. Both ends live on the same thread.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Ends one response or tunnel. Stays set once set.
#[derive(Debug, Default)]
pub struct CutSignal {
    is_cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Registers a response as live. The response body calls it once, when the response needs more than one frame or a
/// wait, and keeps the returned registration until the response ends.
pub type RegisterLive = Box<dyn FnOnce(Rc<CutSignal>) -> Rc<dyn Any>>;

impl CutSignal {
    pub fn cut(&self) {
        self.is_cut.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub fn is_cut(&self) -> bool {
        self.is_cut.get()
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_cut.get() {
            return Poll::Ready(());
        }
        let mut stored = self.waker.borrow_mut();
        if !stored.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *stored = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) async fn wait(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}
