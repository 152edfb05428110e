//! How an answer or a tunnel is ended from outside.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Ends one answer or tunnel; whoever is served by it waits on it, nobody else.
#[derive(Debug, Default)]
pub struct Cut {
    done: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

/// Called once, when an answer turns out to take its time; what it gives is kept as long as the answer lasts.
pub type Enlist = Box<dyn FnOnce(Rc<Cut>) -> Rc<dyn Any>>;

impl Cut {
    pub fn cut(&self) {
        self.done.set(true);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    pub fn is_cut(&self) -> bool {
        self.done.get()
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.done.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) async fn wait(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}
