//! Tells an operator that something fails when it begins and when the cause changes, and not each time it is met.

use std::fmt::Display;

use super::warnings::{Reason, Warnings};
use crate::common::text::one_line;

/// One thing that can fail again and again.
#[derive(Debug)]
pub(crate) struct Trouble {
    reason: Reason,
    /// What the bastion does meanwhile: the message of the log line.
    meanwhile: &'static str,
    warnings: Warnings,
    /// What was told last, while it lasts.
    told: Option<String>,
}

impl Trouble {
    pub(crate) fn new(reason: Reason, meanwhile: &'static str, warnings: Warnings) -> Self {
        Self { reason, meanwhile, warnings, told: None }
    }

    /// It failed. Logs and warns, unless that was told already; returns whether it was news.
    pub(crate) fn met(&mut self, error: &impl Display) -> bool {
        let error = one_line(error);
        if self.told.as_ref() == Some(&error) {
            return false;
        }
        tracing::error!(error, "{}", self.meanwhile);
        self.warnings.raise(self.reason, &error);
        self.told = Some(error);
        true
    }

    /// Whether it failed the last time.
    pub(crate) fn lasts(&self) -> bool {
        self.told.is_some()
    }

    /// It works; returns whether it had failed before.
    pub(crate) fn over(&mut self) -> bool {
        self.told.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_until_its_cause_changes_or_it_is_over() {
        let (warnings, mut heard) = Warnings::channel();
        let mut trouble = Trouble::new(Reason::AuthorityUnreadable, "keeping what is known", warnings);
        assert!(!trouble.over() && !trouble.lasts());
        assert!(trouble.met(&"no such file\n  remedy"));
        assert!(!trouble.met(&"no such file\n  remedy"), "told");
        assert!(trouble.met(&"permission denied"), "another cause");
        assert!(trouble.lasts() && trouble.over() && !trouble.over());
        assert!(trouble.met(&"permission denied"), "again, after it worked");
        let told: Vec<_> =
            std::iter::from_fn(|| heard.try_recv().ok()).map(|warning| warning.message).collect();
        assert_eq!(told, ["no such file | remedy", "permission denied", "permission denied"]);
    }
}
