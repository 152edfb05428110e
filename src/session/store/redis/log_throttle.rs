//! What went wrong with the store, said often enough to be seen and not at every try.

use std::time::Duration;

use tokio::time::Instant;

/// The same is said again after so long.
const AGAIN: Duration = Duration::from_secs(30);
/// Something else is said after so long: errors that alternate fill no log.
const OTHER: Duration = Duration::from_secs(1);

/// What was said last.
#[derive(Debug, Default)]
pub struct Complaint {
    said: Option<(String, Instant)>,
}

impl Complaint {
    /// Whether this is to be said now: it is the first, another one than the last, or lasts.
    pub fn is_due(&mut self, why: &str, now: Instant) -> bool {
        let due = self.said.as_ref().is_none_or(|(last, at)| {
            let wait = if last == why { AGAIN } else { OTHER };
            now.saturating_duration_since(*at) >= wait
        });
        if due {
            self.said = Some((why.to_owned(), now));
        }
        due
    }

    /// It works: the next one is the first again.
    pub fn over(&mut self) {
        self.said = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_another_and_a_lasting_one_are_said_and_nothing_between() {
        let (mut complaint, began) = (Complaint::default(), Instant::now());
        let mut said = |why: &str, millis: u64| complaint.is_due(why, began + Duration::from_millis(millis));
        assert!(said("refused", 0));
        assert!(!said("refused", 29_999));
        assert!(said("refused", 30_000), "it lasts");
        assert!(!said("WRONGPASS", 30_999), "errors that alternate");
        assert!(said("WRONGPASS", 31_000), "another one");
        assert!(!said("WRONGPASS", 60_999));
        complaint.over();
        assert!(complaint.is_due("WRONGPASS", began + Duration::from_secs(61)));
    }
}
