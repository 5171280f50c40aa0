//! Maps each way to end to its exit code.

use std::process::ExitCode;

use super::Stage;

/// Ended as asked.
pub(crate) const OK: u8 = 0;

/// The code of a failure at `stage`.
pub(crate) fn of(stage: Stage) -> u8 {
    match stage {
        Stage::Arguments | Stage::Configuration => 2,
        Stage::Login => 3,
        Stage::Signing => 4,
        Stage::Name | Stage::Connect | Stage::Session => 5,
        Stage::HostKey => 6,
        Stage::Certificate => 7,
        Stage::Policy => 8,
        Stage::LocalPort => 9,
        Stage::Target => 10,
        Stage::Database => 11,
        Stage::Internal => 70,
    }
}

/// The same as what `main` returns.
pub(crate) fn exit(stage: Stage) -> ExitCode {
    ExitCode::from(of(stage))
}
