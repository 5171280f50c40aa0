//! Logs and warns of a persistent failure once, when it begins and when its cause changes, instead of each
//! time it is met.

use std::{fmt::Display, time::Instant};

use backoff::{Again, Trouble};
use tracing::Level;

use super::warnings::{Reason, Warnings};
use crate::common::text::one_line;

/// The failure of one source or task, which the bastion tries again and again.
#[derive(Debug)]
pub(crate) struct RepeatedFailure {
    reason: Reason,
    level: Level,
    /// The message of the log line: what fails, and what the bastion does meanwhile.
    meanwhile: &'static str,
    warnings: Warnings,
    trouble: Trouble,
}

impl RepeatedFailure {
    /// A failure that may pass by the next try, such as that of a server: a warning.
    pub(crate) fn retried(reason: Reason, meanwhile: &'static str, warnings: Warnings) -> Self {
        Self { reason, level: Level::WARN, meanwhile, warnings, trouble: Trouble::default() }
    }

    /// A failure that lasts until an operator mends its source, such as a file: an error.
    pub(crate) fn of_a_source(reason: Reason, meanwhile: &'static str, warnings: Warnings) -> Self {
        Self { level: Level::ERROR, ..Self::retried(reason, meanwhile, warnings) }
    }

    /// Records a failure: logs and warns unless its cause was logged already, and returns whether it did.
    pub(crate) fn met(&mut self, error: &impl Display) -> bool {
        let error = one_line(error);
        let is_news = self.trouble.raise(&error, Again::Never, Instant::now());
        if is_news {
            if self.level == Level::ERROR {
                tracing::error!(error, "{}", self.meanwhile);
            } else {
                tracing::warn!(error, "{}", self.meanwhile);
            }
            self.warnings.raise(self.reason, &error);
        }
        is_news
    }

    /// Whether the last attempt failed.
    pub(crate) fn lasts(&self) -> bool {
        self.trouble.lasts()
    }

    /// Records a success, and returns whether attempts had failed before.
    pub(crate) fn over(&mut self) -> bool {
        self.trouble.clear()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;

    #[test]
    fn a_failure_is_told_once_until_its_cause_changes_or_it_is_over() {
        let (warnings, mut heard) = Warnings::channel();
        let mut failure =
            RepeatedFailure::of_a_source(Reason::AuthorityUnreadable, "keeping what is known", warnings);
        assert!(!failure.over() && !failure.lasts());
        assert!(failure.met(&"no such file\n  remedy"));
        assert!(!failure.met(&"no such file\n  remedy"), "told");
        assert!(failure.met(&"permission denied"), "another cause");
        assert!(failure.lasts() && failure.over() && !failure.over());
        assert!(failure.met(&"permission denied"), "again, after it worked");
        let told: Vec<_> =
            std::iter::from_fn(|| heard.try_recv().ok()).map(|warning| warning.message).collect();
        assert_eq!(told, ["no such file | remedy", "permission denied", "permission denied"]);
    }

    /// Notes the level of each event.
    #[derive(Clone, Default)]
    struct Levels(Arc<Mutex<Vec<Level>>>);

    impl<S: tracing::Subscriber> Layer<S> for Levels {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(*event.metadata().level());
        }
    }

    #[test]
    fn an_operator_must_mend_a_source_and_a_retry_mends_itself() {
        let levels = Levels::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(levels.clone()), || {
            for new in [RepeatedFailure::of_a_source, RepeatedFailure::retried] {
                new(Reason::HostKeyUnavailable, "retrying", Warnings::default()).met(&"no answer");
            }
        });
        assert_eq!(*levels.0.lock().unwrap(), [Level::ERROR, Level::WARN]);
    }
}
