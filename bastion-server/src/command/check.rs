//! `--check-config`: reads the configuration and the files that it names.

use std::path::Path;

use super::{Outcome, load, serve::told};
use crate::{
    audit,
    config::{self, Config},
    server, telemetry,
    trust::{authorities, host_key, revocation},
};

pub(super) fn run(path: &Path) -> Outcome {
    let config = load(path)?;
    telemetry::start(config.log.level, config.log.format);
    told(config.log.format, check(&config))
}

/// Reads everything that can be read without the network, and changes nothing, except that it creates the
/// audit file.
fn check(config: &Config) -> Result<(), server::Error> {
    if let (Some(vault), config::HostKey::Vault(_)) = (server::vault(config)?, &config.host_key) {
        vault.check()?;
    }
    authorities::check(config.authorities.sources())?;
    revocation::check(&config.revocation)?;
    host_key::check(&config.host_key)?;
    audit::open(&config.audit.to)?;
    Ok(())
}
