//! The line at the bottom of a terminal: what is forwarded, how it goes, how long it may go on.

use std::{fmt, time::Duration};

use plain_text::{bytes, ordinal, rough};

/// How the connection to the bastion is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Link {
    /// Nothing has been tried yet. The user may be asked for a password.
    #[default]
    SigningIn,
    /// The first try is under way.
    Connecting,
    /// Up, with the time that an answer takes.
    Up(Option<Duration>),
    /// Down, and tried again.
    Away {
        /// How many tries have failed.
        tries: u32,
        /// When the next one begins.
        next: Duration,
        /// Why the last one failed.
        reason: String,
    },
}

/// A moment of the tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// `127.0.0.1:5432 → db:5432`, or how many there are.
    pub forwards: String,
    /// How the connection is.
    pub link: Link,
    /// Streams that are open.
    pub open: usize,
    /// Local connections that wait for the bastion.
    pub waiting: usize,
    /// Bytes that came.
    pub received: u64,
    /// Bytes that went.
    pub sent: u64,
    /// How long the certificate is still valid.
    pub certificate: Option<Duration>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.forwards)?;
        match &self.link {
            Link::SigningIn | Link::Connecting => f.write_str("   connecting")?,
            Link::Up(answer) => {
                write!(f, "   {} open   ↓ {}   ↑ {}", self.open, bytes(self.received), bytes(self.sent))?;
                if let Some(answer) = answer {
                    write!(f, "   {} ms", answer.as_millis().max(1))?;
                }
                if let Some(left) = self.certificate {
                    write!(f, "   certificate {}", rough(left))?;
                }
            }
            Link::Away { tries, next, reason } => {
                write!(
                    f,
                    "   reconnecting ({} try, next in {}): {reason}",
                    ordinal(tries + 1),
                    rough(*next)
                )?;
            }
        }
        if self.waiting > 0 {
            write!(f, "   {} waiting", self.waiting)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_promised() {
        let mut status = Status {
            forwards: "127.0.0.1:5432 → postgres.default.svc:5432".into(),
            link: Link::Up(Some(Duration::from_millis(23))),
            open: 2,
            waiting: 0,
            received: 14 << 20,
            sent: 3 << 20,
            certificate: Some(Duration::from_secs(41 * 60 + 7)),
        };
        assert_eq!(
            status.to_string(),
            "127.0.0.1:5432 → postgres.default.svc:5432   2 open   ↓ 14 MiB   ↑ 3 MiB   23 ms   certificate 41 min"
        );
        status.link = Link::Away {
            tries: 2,
            next: Duration::from_secs(2),
            reason: "bastion.example.com does not answer".into(),
        };
        status.waiting = 1;
        assert_eq!(
            status.to_string(),
            "127.0.0.1:5432 → postgres.default.svc:5432   reconnecting (3rd try, next in 2 s): bastion.example.com does not answer   1 waiting"
        );
    }
}
