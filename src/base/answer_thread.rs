//! A thread that answers questions one after the other, for work that is too slow for a worker.
//!
//! The asker waits without blocking its thread. A full queue and an answer that takes longer than the asker waits
//! refuse the question. So the questions of many callers cost no more than one core. A question whose asker left is
//! skipped. A panic ends one question and is counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::oneshot;

use crate::base::priority;

/// The sending end; dropping it ends the thread.
pub struct AnswerThread<Q, A> {
    queue: SyncSender<PendingQuestion<Q, A>>,
    patience: Duration,
}

struct PendingQuestion<Q, A> {
    question: Q,
    answer: oneshot::Sender<Option<A>>,
}

/// The reason why a question has no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoAnswer {
    /// Too many questions wait, or the answer took too long.
    Busy,
    /// The thread panicked on this question.
    Failed,
}

/// Name and limits of a thread.
pub struct AnswerThreadOptions {
    pub name: &'static str,
    /// Questions that wait; a further one is refused.
    pub queue: usize,
    /// Longest wait for an answer.
    pub patience: Duration,
    /// Counts panics.
    pub panics: IntCounter,
}

impl<Q: Send + 'static, A: Send + 'static> AnswerThread<Q, A> {
    pub fn start(options: AnswerThreadOptions, answer: impl Fn(Q) -> A + Send + 'static) -> std::io::Result<Self> {
        let (queue, questions) = sync_channel(options.queue);
        let panics = options.panics;
        std::thread::Builder::new()
            .name(options.name.to_owned())
            .spawn(move || answer_all(&questions, &answer, &panics))?;
        Ok(Self {
            queue,
            patience: options.patience,
        })
    }

    pub async fn ask(&self, question: Q) -> Result<A, NoAnswer> {
        let (sender, answer) = oneshot::channel();
        let asked = PendingQuestion {
            question,
            answer: sender,
        };
        if self.queue.try_send(asked).is_err() {
            return Err(NoAnswer::Busy);
        }
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(answer)) => answer.ok_or(NoAnswer::Failed),
            Ok(Err(_sender_dropped)) => Err(NoAnswer::Failed),
            Err(_elapsed) => Err(NoAnswer::Busy),
        }
    }
}

fn answer_all<Q, A>(questions: &Receiver<PendingQuestion<Q, A>>, answer: &dyn Fn(Q) -> A, panics: &IntCounter) {
    priority::lower();
    while let Ok(asked) = questions.recv() {
        // the request timed out or its client left
        if asked.answer.is_closed() {
            continue;
        }
        let answered = catch_unwind(AssertUnwindSafe(|| answer(asked.question))).ok();
        if answered.is_none() {
            panics.inc();
        }
        let _receiver_dropped = asked.answer.send(answered).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(queue: usize, patience: Duration, answer: impl Fn(u32) -> u32 + Send + 'static) -> AnswerThread<u32, u32> {
        let options = AnswerThreadOptions {
            name: "answers",
            queue,
            patience,
            panics: IntCounter::new("panics", "panics").unwrap(),
        };
        AnswerThread::start(options, answer).unwrap()
    }

    #[tokio::test]
    async fn a_panic_ends_one_question_and_the_next_one_is_answered() {
        let thread = thread(4, Duration::from_secs(60), |question| 12 / question);
        assert_eq!(thread.ask(0).await, Err(NoAnswer::Failed));
        assert_eq!(thread.ask(4).await, Ok(3));
    }

    #[tokio::test]
    async fn a_slow_answer_and_a_full_queue_refuse() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let thread = thread(1, Duration::from_millis(1), move |question| {
            let _released = held.recv().is_err();
            question
        });
        assert_eq!(thread.ask(1).await, Err(NoAnswer::Busy));
        // at most one question is held by the thread and one waits; the next one finds no room and does not wait
        assert_eq!(thread.ask(2).await, Err(NoAnswer::Busy));
        assert_eq!(thread.ask(3).await, Err(NoAnswer::Busy));
        drop(release);
    }
}
