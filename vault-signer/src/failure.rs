//! Maps each failure of the program to its exit code.

use std::process::ExitCode;

use vault_signer::{SignError, bootstrap::BootstrapError, login::LoginError, server::SettingsError};

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0}")]
    Arguments(String),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error("{0}")]
    Listen(String),
    #[error("standard output cannot be written to: {0}")]
    Output(std::io::Error),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Output(_) => 1,
            Self::Settings(_) | Self::Arguments(_) => 2,
            Self::Login(_) => 3,
            Self::Sign(_) | Self::Bootstrap(_) => 4,
            Self::Listen(_) => 9,
        })
    }
}
