//! Timers that fire while the peer keeps a task busy.
//!
//! tokio gives each turn of a task a budget of I/O operations. After the budget is spent, tokio's own timers report
//! that they are pending, even after their time. A task that reads first and looks at its timer afterwards would never
//! see the timer fire while its peer sends faster than the task reads. The timers here ignore the budget.

use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::Instant;

/// Resolves at this time.
pub async fn sleep_until(at: Instant) {
    unconstrained(tokio::time::sleep_until(at)).await;
}

/// Resolves after this time.
pub async fn sleep(time: Duration) {
    unconstrained(tokio::time::sleep(time)).await;
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use tokio::task::coop::has_budget_remaining;

    use super::*;

    #[tokio::test]
    async fn a_timer_fires_although_the_budget_of_the_turn_is_spent() {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..10_000 {
            sender.send(number).unwrap();
        }
        let mut starved = pin!(tokio::time::sleep(Duration::from_millis(1)));
        let mut timer = pin!(sleep(Duration::from_millis(1)));
        poll_fn(|cx| {
            assert!(starved.as_mut().poll(cx).is_pending() && timer.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let (fired, starved_fired) = poll_fn(|cx| {
            while receiver.poll_recv(cx).is_ready() {}
            assert!(!has_budget_remaining());
            Poll::Ready((timer.as_mut().poll(cx), starved.as_mut().poll(cx)))
        })
        .await;
        assert_eq!((fired, starved_fired), (Poll::Ready(()), Poll::Pending));
    }
}
