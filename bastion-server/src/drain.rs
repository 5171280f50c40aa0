//! From the signal to the last byte: what is told to whom, in which order, and how long it may take.

use std::time::Duration;

use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a session that was cut may take to fall apart before it is abandoned.
const AFTER_CUT: Duration = Duration::from_secs(2);

/// The shutdown of one process, shared by all its parts.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    draining: CancellationToken,
    cut: CancellationToken,
    sessions: TaskTracker,
}

/// How the sessions ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// Every session ended by itself after it was told.
    Cleanly,
    /// This many had to be cut when the time was over.
    Cut(usize),
}

impl Drain {
    /// Begins: nothing new is accepted, and sessions are told.
    pub fn begin(&self) {
        self.draining.cancel();
        self.sessions.close();
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Resolves when it begins.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        self.draining.clone().cancelled_owned()
    }

    /// Resolves when whatever still lives must end at once.
    pub fn cut(&self) -> impl Future<Output = ()> + Send + use<> {
        self.cut.clone().cancelled_owned()
    }

    /// Runs a session that [`finish`](Self::finish) will wait for.
    pub fn track<F: Future<Output = ()> + Send + 'static>(&self, session: F) {
        self.sessions.spawn(session);
    }

    /// Waits for the sessions, and cuts those that outlive `grace`.
    pub async fn finish(&self, grace: Duration) -> Finished {
        self.begin();
        if timeout(grace, self.sessions.wait()).await.is_ok() {
            return Finished::Cleanly;
        }
        let remaining = self.sessions.len();
        self.cut.cancel();
        let _ = timeout(AFTER_CUT, self.sessions.wait()).await;
        Finished::Cut(remaining)
    }
}

/// Resolves at the first SIGTERM or SIGINT, with its name.
///
/// # Errors
/// When the process cannot install signal handlers.
pub fn signalled() -> std::io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sessions_that_listen_end_cleanly() {
        let drain = Drain::default();
        drain.track(drain.begun());
        assert!(!drain.has_begun());
        assert_eq!(drain.finish(Duration::from_secs(60)).await, Finished::Cleanly);
        assert!(drain.has_begun());
    }

    #[tokio::test]
    async fn sessions_that_do_not_are_cut() {
        let drain = Drain::default();
        drain.track(drain.cut());
        assert_eq!(drain.finish(Duration::from_millis(10)).await, Finished::Cut(1));
    }
}
