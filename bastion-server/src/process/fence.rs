//! Puts up the fence, the process's sandbox: before it serves, the bastion gives up files that it does not
//! need and system calls that it never makes.
//!
//! The fence is the second line of defence. An attacker who runs code in the bastion finds a process that
//! reads its own configuration and no other user's files, opens no file for writing, starts no program, and
//! listens on no other port.
//!
//! The fence is put up once, before the process has a second thread, because a thread inherits the
//! restrictions of the one that started it, and after the bastion has bound its ports: from then on it cannot
//! bind or listen. It uses Linux's Landlock for files and ports and seccomp for system calls. Neither needs a
//! privilege, and neither can be undone.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;

use std::path::PathBuf;

use crate::config;

/// What the fence leaves to the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The files that may be read, and the folders whose contents may.
    pub read: Vec<PathBuf>,
}

/// A mechanism of the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Landlock, for files and ports.
    Landlock,
    /// seccomp, for system calls.
    Seccomp,
}

impl Kind {
    /// Both, in the order in which they are put up: the second forbids the calls of the first.
    pub const ALL: [Self; 2] = [Self::Landlock, Self::Seccomp];

    /// The name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }

    #[cfg(target_os = "linux")]
    fn put_up(self, bounds: &Bounds) -> Result<(), String> {
        match self {
            Self::Landlock => files::restrict(bounds),
            Self::Seccomp => calls::restrict(),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn put_up(self, _bounds: &Bounds) -> Result<(), String> {
        Err("only Linux has it".to_owned())
    }
}

/// The mechanisms that are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Fence(Vec<Kind>);

impl Fence {
    /// Whether this mechanism is in force.
    pub fn holds(&self, kind: Kind) -> bool {
        self.0.contains(&kind)
    }
}

/// A mechanism is not available, although the operator requires it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: {reason}\n  fence: required asks for it; with fence: auto the bastion would go on without",
    .kind.name()
)]
pub struct Missing {
    pub kind: Kind,
    /// The system's error message.
    pub reason: String,
}

/// Puts up the fence around the calling thread and all threads that it will start.
///
/// # Errors
/// When the operator requires the fence and the kernel does not support it.
pub fn put_up(wanted: config::Fence, bounds: &Bounds) -> Result<Fence, Missing> {
    let mut fence = Fence::default();
    for kind in Kind::ALL {
        let outcome = match wanted {
            config::Fence::Off => break,
            config::Fence::Auto | config::Fence::Required => kind.put_up(bounds),
        };
        match (outcome, wanted) {
            (Ok(()), _) => fence.0.push(kind),
            (Err(reason), config::Fence::Required) => return Err(Missing { kind, reason }),
            (Err(reason), config::Fence::Auto | config::Fence::Off) => {
                tracing::warn!(
                    kind = kind.name(),
                    reason,
                    "the kernel does not support this part of the fence; the bastion serves without it"
                );
            }
        }
    }
    Ok(fence)
}
