//! Listens for signals. One that was ignored when the program started stays ignored, as for ssh.
//!
//! `nohup` starts a program with SIGHUP ignored, and a shell without job control starts one in the background with SIGINT
//! and SIGQUIT ignored: a user who did that wants the program to outlive the terminal. To listen for such a signal would undo it.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, Stage};

/// What was ignored when the program started, read once and before anything is listened for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ignored(u64);

impl Ignored {
    /// What the kernel says: Linux does, in `/proc`. Elsewhere only `sigaction` would, whose bindings are unsafe; there
    /// nothing counts as ignored, and `nohup` does not hold.
    pub(super) fn at_start() -> Self {
        Self::of(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    /// The mask in the text of `/proc/PID/status`.
    fn of(status: &str) -> Self {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Self(mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default())
    }

    fn holds(self, kind: SignalKind) -> bool {
        let bit = u32::try_from(kind.as_raw_value()).ok().and_then(|number| number.checked_sub(1));
        bit.and_then(|bit| self.0.checked_shr(bit)).is_some_and(|rest| rest & 1 == 1)
    }
}

/// A signal that may come, or one that never does.
pub(super) struct SignalListener(Option<Signal>);

impl SignalListener {
    /// Listens for `kind`, unless it was ignored at the start.
    pub(super) fn listen(kind: SignalKind, ignored: Ignored) -> Result<Self, Failure> {
        if ignored.holds(kind) {
            return Ok(Self(None));
        }
        let listening = signal(kind).map_err(|error| {
            Failure::permanent(Stage::Internal, format!("cannot listen for signals: {error}"))
        })?;
        Ok(Self(Some(listening)))
    }

    /// Waits for the next one.
    pub(super) async fn recv(&mut self) -> Option<()> {
        match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_mask_is_understood() {
        let status = "Name:\tpf-tunnel\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000004002\n";
        let ignored = Ignored::of(status);
        assert!(ignored.holds(SignalKind::hangup()) && ignored.holds(SignalKind::pipe()));
        assert!(!ignored.holds(SignalKind::interrupt()) && !ignored.holds(SignalKind::terminate()));
        for none in ["", "SigIgn:\t", "SigIgn:\tx"] {
            assert!(!Ignored::of(none).holds(SignalKind::hangup()), "{none:?}");
        }
    }
}
