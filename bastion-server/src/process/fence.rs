//! What the process gives up before it serves anybody: files that it does not need, and system calls that no bastion makes.
//!
//! The second line of defence. Whoever makes the bastion run code of their own finds a process that reads its
//! configuration and nothing of other people's, opens no file for writing, starts no program, and listens on no other port.
//!
//! It is put up once, before there is a second thread, because a thread keeps what its maker had, and after the bastion's own ports were bound:
//! from then on nothing is bound and nothing listens. The means are those of Linux: Landlock for files and ports, seccomp for system calls.
//! Neither needs a privilege, and neither can be undone.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;

use std::path::PathBuf;

use crate::config;

/// What the sandbox leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Folders, with all that is in them, and files that may be read.
    pub read: Vec<PathBuf>,
}

/// One of the means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Files and ports.
    Landlock,
    /// System calls.
    Seccomp,
}

impl Kind {
    /// Both, in the order in which they are put up: the second forbids the first.
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

/// What holds from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Fence(Vec<Kind>);

impl Fence {
    /// Whether this one holds.
    pub fn holds(&self, kind: Kind) -> bool {
        self.0.contains(&kind)
    }
}

/// There is no fence, and there was to be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: {reason}\n  fence: required asks for it; with fence: auto the bastion would go on without",
    .kind.name()
)]
pub struct Missing {
    /// What is missing.
    pub kind: Kind,
    /// The words of the system.
    pub reason: String,
}

/// Puts it up around the calling thread, and all that it will start.
///
/// # Errors
/// When the kernel does not have it, and the operator wants it.
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
                tracing::warn!(kind = kind.name(), reason, "this part of the fence is missing");
            }
        }
    }
    Ok(fence)
}
