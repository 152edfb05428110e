//! Lowers the priority of threads whose work can wait (loading policies, compressing rotated files), so that they make
//! way for workers.
//!
//! On a busy core a load would otherwise take half of a worker's time as long as it lasts. A thread of this priority
//! still gets about a tenth of a saturated core, so a load always ends.

/// Nice value of background threads.
const BACKGROUND_NICE: i32 = 10;

/// Lowers the priority of the calling thread, and of threads that it starts later. An unprivileged thread cannot raise
/// it again.
pub fn lower() {
    // on Linux a priority belongs to a thread, although POSIX gives it to the process
    let before = rustix::process::getpriority_process(None).unwrap_or_default();
    if let Err(error) = rustix::process::setpriority_process(None, BACKGROUND_NICE.max(before)) {
        tracing::debug!(%error, "cannot lower the thread's priority; it competes with traffic");
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn lowering_one_thread_leaves_the_priority_of_other_threads() {
        let before = getpriority_process(None).unwrap();
        let other = std::thread::spawn(|| {
            lower();
            getpriority_process(None).unwrap()
        });
        assert_eq!(other.join().unwrap(), BACKGROUND_NICE.max(before));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
