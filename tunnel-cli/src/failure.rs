//! Describes a failure in the order in which a user needs it: what failed, what it means, what to do next.

pub(crate) mod exit_code;
mod retry;

use std::{fmt, time::Duration};

use plain_text::Hint;
use serde::Serialize;

pub(crate) use retry::Retry;

/// How far we got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// What was typed.
    Arguments,
    /// What the files and the environment say.
    Configuration,
    /// The local port.
    LocalPort,
    /// Login to Vault or OpenBao.
    Login,
    /// The signature of the SSH engine.
    Signing,
    /// The name of the bastion.
    Name,
    /// TCP to the bastion.
    Connect,
    /// SSH with the bastion: the handshake, or the connection later on.
    Session,
    /// Who the bastion proved to be.
    HostKey,
    /// The bastion and our certificate.
    Certificate,
    /// The bastion's policy and a destination.
    Policy,
    /// The destination itself.
    Target,
    /// Credentials for a database.
    Database,
    /// A defect of ours.
    Internal,
}

/// Something failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    stage: Stage,
    what: String,
    advice: Vec<String>,
    retry: Retry,
    retry_after: Option<Duration>,
}

impl Failure {
    /// A failure after which `retry` says when another attempt may succeed.
    pub(crate) fn new(stage: Stage, what: impl Into<String>, retry: Retry) -> Self {
        Self { stage, what: what.into(), advice: Vec::new(), retry, retry_after: None }
    }

    /// A failure that waiting may mend.
    pub(crate) fn transient(stage: Stage, what: impl Into<String>) -> Self {
        Self::new(stage, what, Retry::Soon)
    }

    /// A failure that no other attempt can mend.
    pub(crate) fn permanent(stage: Stage, what: impl Into<String>) -> Self {
        Self::new(stage, what, Retry::Never)
    }

    /// A failure of an error that knows what to do about it.
    pub(crate) fn hinted(stage: Stage, error: &impl Hint, retry: Retry) -> Self {
        let advice = error.hint();
        Self { advice, ..Self::new(stage, error.what(), retry) }
    }

    /// Adds a line that says what it means or what to do.
    #[must_use]
    pub(crate) fn advise(mut self, line: impl Into<String>) -> Self {
        self.advice.extend(line.into().lines().map(str::to_owned));
        self
    }

    /// Adds how long the other side asks to be left alone.
    #[must_use]
    pub(crate) fn after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// How long the other side asks to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The stage that failed.
    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// The first line.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// The lines after it.
    pub(crate) fn advice(&self) -> &[String] {
        &self.advice
    }

    /// When another attempt may succeed.
    pub(crate) fn retry(&self) -> Retry {
        self.retry
    }

    /// Whether waiting alone may help.
    pub(crate) fn is_transient(&self) -> bool {
        self.retry.is_soon()
    }
}

/// A setting without which nothing can begin, and where to write it.
pub(crate) fn missing(what: &str, retry: &str) -> Failure {
    Failure::permanent(Stage::Configuration, what).advise(retry)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.advice.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for Failure {}

impl From<config_file::Error> for Failure {
    fn from(error: config_file::Error) -> Self {
        Self::hinted(Stage::Configuration, &error, Retry::Never)
    }
}
