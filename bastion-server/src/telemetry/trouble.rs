//! Logs and warns of a persistent failure once, when it begins and when its cause changes, instead of each
//! time it is met.

use std::fmt::Display;

use super::warnings::{Reason, Warnings};
use crate::common::text::one_line;

/// The failure of one source or task that retries.
#[derive(Debug)]
pub(crate) struct Trouble {
    reason: Reason,
    /// The message of the log line: what fails, and what the bastion does meanwhile.
    meanwhile: &'static str,
    warnings: Warnings,
    /// The cause that was logged last, while the failure lasts.
    told: Option<String>,
}

impl Trouble {
    pub(crate) fn new(reason: Reason, meanwhile: &'static str, warnings: Warnings) -> Self {
        Self { reason, meanwhile, warnings, told: None }
    }

    /// Records a failure: logs and warns unless its cause was logged already, and returns whether it did.
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

    /// Whether the last attempt failed.
    pub(crate) fn lasts(&self) -> bool {
        self.told.is_some()
    }

    /// Records a success, and returns whether attempts had failed before.
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
