//! What goes wrong, in the order in which a person needs it: what failed, what it means, what to do next.

pub mod exit_code;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::verdict::Retry;

/// How far we got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
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
pub struct Failure {
    stage: Stage,
    what: String,
    advice: Vec<String>,
    retry: Retry,
    retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that `retry` may retry.
    pub fn new(stage: Stage, what: impl Into<String>, retry: Retry) -> Self {
        Self { stage, what: what.into(), advice: Vec::new(), retry, retry_after: None }
    }

    /// A failure that trying again may retry.
    pub fn transient(stage: Stage, what: impl Into<String>) -> Self {
        Self::new(stage, what, Retry::Soon)
    }

    /// A failure that trying again cannot retry.
    pub fn permanent(stage: Stage, what: impl Into<String>) -> Self {
        Self::new(stage, what, Retry::Never)
    }

    /// Adds a line that says what it means or what to do.
    #[must_use]
    pub fn advise(mut self, line: impl Into<String>) -> Self {
        self.advice.extend(line.into().lines().map(str::to_owned));
        self
    }

    /// Adds how long the other side asks to be left alone.
    #[must_use]
    pub fn after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// How long the other side asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The stage that failed.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The first line.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The lines after it.
    pub fn advice(&self) -> &[String] {
        &self.advice
    }

    /// What could retry it.
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// Whether the same may work later with nothing changed by anybody.
    pub fn is_transient(&self) -> bool {
        self.retry.is_soon()
    }
}

/// A setting without which nothing can begin, and where to write it.
pub fn missing(what: &str, retry: &str) -> Failure {
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
        let text = error.to_string();
        let (what, advice) = text.split_once('\n').unwrap_or((&text, ""));
        Self::permanent(Stage::Configuration, what).advise(advice.trim())
    }
}
