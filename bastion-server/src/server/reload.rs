//! Reads the configuration again when its file changes, and keeps the running one if the new one is broken.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    common::text::one_line,
    common::watched_file::WatchedFile,
    config::{self, Config},
    telemetry::metrics::Metrics,
};

/// The interval at which the file is checked for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Applies every later valid content of the file at `path`. `running` is the configuration at the start.
pub(super) async fn follow<E: std::error::Error>(
    path: PathBuf,
    mut running: Config,
    metrics: Arc<Metrics>,
    apply: impl Fn(&Config) -> Result<(), E>,
) {
    let mut file = WatchedFile::new(&path);
    // The first content was read before this task began; reading it once more changes nothing.
    loop {
        match file.changed() {
            Ok(None) => {}
            Ok(Some(_)) => match read(&path, &running) {
                Ok(Some(config)) => match apply(&config) {
                    Ok(()) => {
                        tracing::info!(rules = config.rules.len(), "configuration reloaded");
                        metrics.config_read();
                        running = config;
                    }
                    Err(error) => keep(&metrics, &error),
                },
                Ok(None) => {}
                Err(error) => keep(&metrics, &error),
            },
            // The error is logged again only when the file is back and still invalid.
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "cannot read the configuration; retrying")
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Returns the configuration to apply next, if it differs from the running one.
fn read(path: &Path, running: &Config) -> Result<Option<Config>, config::Error> {
    let written = Config::load(path, |name| std::env::var(name).ok())?;
    let next = running.clone().with_live_settings_of(&written);
    if next != written {
        tracing::warn!(
            "the configuration also changes settings that the bastion reads only at its start; restart it to apply them"
        );
    }
    Ok((next != *running).then_some(next))
}

fn keep(metrics: &Metrics, error: &impl std::error::Error) {
    metrics.config_failed();
    tracing::error!(
        error = one_line(error),
        "the changed configuration is broken; the previous one stays in force"
    );
}
