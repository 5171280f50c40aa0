//! `pf-tunnel HOST:PORT LOCAL …`

use std::sync::Arc;

use super::{
    setup::{credentials, dialler},
    signals,
};
use crate::{
    cli::Flags,
    config::Settings,
    endpoint::Forward,
    failure::{Failure, exit_code},
    output::{Event, Output},
    tunnel::{Listener, RunOptions, Tunnel},
};

/// Forwards until told to end.
pub(super) async fn run(
    settings: &Settings,
    flags: &Flags,
    forwards: &[Forward],
    output: Arc<Output>,
) -> Result<u8, Failure> {
    let stop = signals::stop(signals::Interrupt::Ends)?;
    let dialler = dialler(settings, &output)?;
    let credentials = Arc::new(credentials(settings, &output)?);
    let listeners = forwards
        .iter()
        .map(|forward| Listener::bind(forward, |port| format!("pf-tunnel {} {port}", forward.destination)))
        .collect::<Result<Vec<_>, _>>()?;
    let options = RunOptions {
        hold: settings.hold.value.duration(),
        once: flags.once,
        probe: flags.probe,
        target_must_answer: false,
    };
    let tunnel = Tunnel { listeners, dialler, credentials, output: Arc::clone(&output), options };
    tunnel.run(stop, None).await?;
    output.say(&Event::Ended);
    Ok(exit_code::OK)
}
