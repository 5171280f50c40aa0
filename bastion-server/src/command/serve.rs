//! Serves clients until a signal.

use std::{path::PathBuf, process::ExitCode};

use super::{Outcome, fail, load, run_on, workers};
use crate::{
    common::text::one_line,
    config::Config,
    server,
    telemetry::{self, Format},
};

pub(super) fn run(path: PathBuf) -> Outcome {
    let config = load(&path)?;
    let format = config.log.format;
    telemetry::start(config.log.level, format);
    told(format, fence_and_serve(path, config))
}

/// Reports a failure where the operator looks for it: in the log, if machines read that.
pub(super) fn told(format: Format, outcome: Result<(), server::Error>) -> Outcome {
    match (outcome, format) {
        (Ok(()), _) => Ok(ExitCode::SUCCESS),
        (Err(error), Format::Human) => Err(fail(error.exit_code(), &error)),
        (Err(error), Format::Json) => {
            tracing::error!(error = one_line(&error), "the bastion ends");
            Err(ExitCode::from(error.exit_code()))
        }
    }
}

fn fence_and_serve(path: PathBuf, config: Config) -> Result<(), server::Error> {
    // The sandbox hides the number of processors.
    let workers = workers();
    let prepared = server::prepare(&path, &config)?;
    run_on(workers, server::run(path, config, prepared))
}
