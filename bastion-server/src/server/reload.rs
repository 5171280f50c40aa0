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

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Applies every later state of the file at `path` that is whole and right. `running` is what is in force at first.
pub(super) async fn follow<E: std::error::Error>(
    path: PathBuf,
    mut running: Config,
    metrics: Arc<Metrics>,
    apply: impl Fn(&Config) -> Result<(), E>,
) {
    let mut file = WatchedFile::new(&path);
    // The first state was read before this began; reading it once more changes nothing.
    loop {
        match file.changed() {
            Ok(None) => {}
            Ok(Some(_)) => match read(&path, &running) {
                Ok(Some(config)) => match apply(&config) {
                    Ok(()) => {
                        tracing::info!(rules = config.rules.len(), "the new configuration is in force");
                        metrics.config_read();
                        running = config;
                    }
                    Err(error) => keep(&metrics, &error),
                },
                Ok(None) => {}
                Err(error) => keep(&metrics, &error),
            },
            // Said again only when it is there again and still wrong.
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "the configuration is not readable")
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The configuration to be in force next, if it differs from the running one.
fn read(path: &Path, running: &Config) -> Result<Option<Config>, config::Error> {
    let written = Config::load(path, |name| std::env::var(name).ok())?;
    let next = running.clone().with_live_settings_of(&written);
    if next != written {
        tracing::warn!(
            "the file also changes settings that are read at the start only; restart to put them into force"
        );
    }
    Ok((next != *running).then_some(next))
}

fn keep(metrics: &Metrics, error: &impl std::error::Error) {
    metrics.config_failed();
    tracing::error!(error = one_line(error), "the new configuration is broken; the old one stays in force");
}
