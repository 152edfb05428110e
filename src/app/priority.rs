//! Threads that prepare policies step back behind those that serve traffic.
//!
//! On a busy core a load would otherwise take half of a worker's time for as long as it lasts. Stepping back is not
//! stopping: a thread of this priority still gets about a tenth of a saturated core.

/// Of the threads `reload` and `twins`.
const BACKGROUND_NICE: i32 = 10;

/// Lowers the priority of the calling thread, and of threads that it starts from here on; there is no way back.
pub(super) fn step_back() {
    // on Linux a priority is that of a thread, whatever POSIX says of processes
    let before = rustix::process::getpriority_process(None).unwrap_or_default();
    if let Err(error) = rustix::process::setpriority_process(None, BACKGROUND_NICE.max(before)) {
        tracing::debug!(%error, "loading policies competes with traffic");
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn one_thread_steps_back_and_the_others_stay() {
        let before = getpriority_process(None).unwrap();
        let other = std::thread::spawn(|| {
            step_back();
            getpriority_process(None).unwrap()
        });
        assert_eq!(other.join().unwrap(), BACKGROUND_NICE.max(before));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
