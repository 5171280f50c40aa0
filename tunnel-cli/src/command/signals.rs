//! Decides what SIGINT, SIGTERM and SIGHUP do: the first ends in order, and a second one, after a moment, ends immediately.

mod listener;

use std::time::Duration;

use tokio::{signal::unix::SignalKind, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use listener::{Ignored, SignalListener};

/// Signals that come as close together as this are one wish: a terminal, a shell and a supervisor each pass on what they
/// got. A person who insists takes longer.
const ONE_WISH: Duration = Duration::from_millis(500);

/// What Ctrl-C does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// Ends the program.
    Ends,
    /// Is for the child in the foreground, which got it too.
    IsTheChilds,
}

/// What a signal is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// End in order. Asking twice changes nothing.
    EndInOrder,
    /// End immediately, and leave what was not finished.
    EndAtOnce,
}

/// Tells a person who insists from a wish that arrives more than once.
#[derive(Debug, Default)]
struct Insistence(Option<Instant>);

impl Insistence {
    /// SIGHUP never insists: a terminal that is closed sends it more than once, and a session's end sends it beside
    /// SIGTERM. What has to be finished, such as revoking a lease, is finished.
    fn answer(&mut self, kind: SignalKind, now: Instant) -> Answer {
        if kind == SignalKind::hangup() {
            return Answer::EndInOrder;
        }
        match self.0 {
            Some(first) if now.duration_since(first) >= ONE_WISH => Answer::EndAtOnce,
            Some(_) => Answer::EndInOrder,
            None => {
                self.0 = Some(now);
                Answer::EndInOrder
            }
        }
    }
}

/// A token that the first signal cancels.
pub(super) fn stop(interrupt: Interrupt) -> Result<CancellationToken, Failure> {
    let ignored = Ignored::at_start();
    let listen = |kind| SignalListener::listen(kind, ignored);
    let mut interrupts = listen(SignalKind::interrupt())?;
    let mut terminates = listen(SignalKind::terminate())?;
    let mut hang_ups = listen(SignalKind::hangup())?;
    let stop = CancellationToken::new();
    let first = stop.clone();
    tokio::spawn(async move {
        let mut insistence = Insistence::default();
        loop {
            let kind = next(&mut interrupts, &mut terminates, &mut hang_ups, interrupt).await;
            match insistence.answer(kind, Instant::now()) {
                Answer::EndInOrder => first.cancel(),
                Answer::EndAtOnce => {
                    crate::login::restore_terminal();
                    std::process::exit(128 + kind.as_raw_value());
                }
            }
        }
    });
    Ok(stop)
}

/// The next signal that is ours.
async fn next(
    interrupts: &mut SignalListener,
    terminates: &mut SignalListener,
    hang_ups: &mut SignalListener,
    interrupt: Interrupt,
) -> SignalKind {
    loop {
        tokio::select! {
            _ = interrupts.recv() => match interrupt {
                Interrupt::Ends => return SignalKind::interrupt(),
                Interrupt::IsTheChilds => {}
            },
            _ = terminates.recv() => return SignalKind::terminate(),
            _ = hang_ups.recv() => return SignalKind::hangup(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_person_who_insists_ends_it_at_once() {
        let (hup, term, int) = (SignalKind::hangup(), SignalKind::terminate(), SignalKind::interrupt());
        let start = Instant::now();
        let last = |signals: &[(SignalKind, u64)]| {
            let mut insistence = Insistence::default();
            let answers = signals
                .iter()
                .map(|(kind, after)| insistence.answer(*kind, start + Duration::from_millis(*after)));
            answers.last().unwrap()
        };
        for signals in [
            &[(int, 0)][..],
            &[(term, 0), (hup, 5000)],
            &[(hup, 0), (term, 5000)],
            &[(hup, 0), (hup, 5000), (hup, 9000)],
            &[(int, 0), (int, 10), (term, 20)],
        ] {
            assert_eq!(last(signals), Answer::EndInOrder, "{signals:?}");
        }
        for signals in [
            &[(int, 0), (int, 600)][..],
            &[(int, 0), (hup, 1), (term, 700)],
            &[(hup, 0), (term, 1), (term, 900)],
        ] {
            assert_eq!(last(signals), Answer::EndAtOnce, "{signals:?}");
        }
    }
}
