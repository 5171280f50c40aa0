//! Drains the bastion after a signal: announces the end, closes the listener, and ends sessions in order,
//! within bounds.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a session may take to end itself after `drain.timeout`, before it is cut.
const AFTER_TOLD: Duration = Duration::from_secs(3);
/// How long a session that was cut may take to end before it is abandoned.
const AFTER_CUT: Duration = Duration::from_secs(2);

/// The shutdown of one process, shared by all its parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain {
    announced: CancellationToken,
    draining: CancellationToken,
    over: CancellationToken,
    cut: CancellationToken,
    sessions: TaskTracker,
}

/// How the sessions ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// Every session ended in time.
    Cleanly,
    /// This many sessions still forwarded something after `drain.timeout` and were ended.
    Cut(usize),
}

impl Drain {
    /// Announces the shutdown, so that load balancers choose other bastions; service goes on as before.
    pub(crate) fn announce(&self) {
        self.announced.cancel();
    }

    /// Whether the shutdown is announced or has begun.
    pub(crate) fn is_announced(&self) -> bool {
        self.announced.is_cancelled()
    }

    /// Begins the shutdown: new connections are no longer accepted, and idle sessions are told to disconnect.
    pub(crate) fn begin(&self) {
        self.announce();
        self.draining.cancel();
        self.sessions.close();
    }

    /// Resolves when the shutdown begins.
    pub(crate) fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        self.draining.clone().cancelled_owned()
    }

    /// Resolves when sessions that still forward something must end; they may tell their clients first.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        self.over.clone().cancelled_owned()
    }

    /// Resolves when every remaining session must end immediately.
    pub(crate) fn cut(&self) -> impl Future<Output = ()> + Send + use<> {
        self.cut.clone().cancelled_owned()
    }

    /// Runs a session that [`finish`](Self::finish) will wait for.
    pub(crate) fn track<F: Future<Output = ()> + Send + 'static>(&self, session: F) {
        self.sessions.spawn(session);
    }

    /// Waits for the sessions, ends those that outlive `grace`, and cuts those that do not end themselves.
    pub(crate) async fn finish(&self, grace: Duration) -> Finished {
        self.begin();
        if timeout(grace, self.sessions.wait()).await.is_ok() {
            return Finished::Cleanly;
        }
        let remaining = self.sessions.len();
        self.over.cancel();
        if timeout(AFTER_TOLD, self.sessions.wait()).await.is_err() {
            self.cut.cancel();
            let _ = timeout(AFTER_CUT, self.sessions.wait()).await;
        }
        Finished::Cut(remaining)
    }
}

/// The signals that the bastion handles.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Replaces the default handlers, which would end the process.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn install() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or SIGINT, and returns its name; calls `reload` at each SIGHUP.
    pub(crate) async fn stop(&mut self, reload: impl Fn()) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => reload(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sessions_that_listen_end_cleanly() {
        let drain = Drain::default();
        drain.track(drain.begun());
        drain.announce();
        assert!(drain.is_announced() && !drain.draining.is_cancelled());
        assert_eq!(drain.finish(Duration::from_secs(60)).await, Finished::Cleanly);
    }

    #[tokio::test]
    async fn sessions_that_have_work_may_finish_it_until_the_time_is_over() {
        let (drain, began) = (Drain::default(), std::time::Instant::now());
        let grace = Duration::from_millis(100);
        drain.track(drain.over());
        assert_eq!(drain.finish(grace).await, Finished::Cut(1));
        assert!(began.elapsed() >= grace && !drain.cut.is_cancelled());
    }

    #[tokio::test]
    async fn sessions_that_do_not_are_cut() {
        let drain = Drain::default();
        drain.track(drain.cut());
        assert_eq!(drain.finish(Duration::from_millis(10)).await, Finished::Cut(1));
    }
}
