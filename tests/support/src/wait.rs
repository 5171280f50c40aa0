//! Waits for a condition with a deadline, instead of sleeping and hoping.

use std::time::{Duration, Instant};

/// How long a peer may take to start before the test gives up; generous, since two cores may run many tests
/// simultaneously.
pub const START: Duration = Duration::from_secs(60);

/// Asks until the answer is there.
///
/// # Panics
/// When `deadline` passes first, naming `what` was waited for.
pub fn until<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// [`until`], for a plain condition.
pub fn until_true(what: &str, deadline: Duration, mut ask: impl FnMut() -> bool) {
    until(what, deadline, || ask().then_some(()));
}
