//! SIGINT, SIGTERM and SIGHUP: the first one ends in order, the second one at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Stage};

/// What Ctrl-C does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// Ends the program.
    Ends,
    /// Is for the child in the foreground, which got it too.
    IsTheChilds,
}

/// A token that the first signal cancels.
pub(super) fn stop(interrupt: Interrupt) -> Result<CancellationToken, Failure> {
    let listen = |kind| {
        signal(kind)
            .map_err(|error| Failure::lasting(Stage::Internal, format!("cannot listen for signals: {error}")))
    };
    let mut interrupts = listen(SignalKind::interrupt())?;
    let mut terminates = listen(SignalKind::terminate())?;
    let mut hang_ups = listen(SignalKind::hangup())?;
    let stop = CancellationToken::new();
    let first = stop.clone();
    tokio::spawn(async move {
        next(&mut interrupts, &mut terminates, &mut hang_ups, interrupt).await;
        first.cancel();
        let number = next(&mut interrupts, &mut terminates, &mut hang_ups, interrupt).await;
        super::login::restore_terminal();
        std::process::exit(128 + number);
    });
    Ok(stop)
}

/// The number of the next signal that is ours.
async fn next(
    interrupts: &mut Signal,
    terminates: &mut Signal,
    hang_ups: &mut Signal,
    interrupt: Interrupt,
) -> i32 {
    loop {
        tokio::select! {
            _ = interrupts.recv() => match interrupt {
                Interrupt::Ends => return SignalKind::interrupt().as_raw_value(),
                Interrupt::IsTheChilds => {}
            },
            _ = terminates.recv() => return SignalKind::terminate().as_raw_value(),
            _ = hang_ups.recv() => return SignalKind::hangup().as_raw_value(),
        }
    }
}
