//! The errors that keep the bastion from serving, and their exit codes.

use std::{io, net::SocketAddr};

use vault_signer::server::SettingsError;

use crate::{
    audit,
    dial::resolver::NoServers,
    kubernetes,
    process::{fence, own_addresses::NoServiceHost},
    trust::{authorities, host_key, revocation, vault},
};

/// Why the bastion does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The address of Vault cannot be used.
    #[error(transparent)]
    Vault(#[from] SettingsError),
    /// The bastion cannot log in to Vault.
    #[error(transparent)]
    VaultLogin(#[from] vault::Error),
    /// The authorities cannot be read.
    #[error(transparent)]
    Authorities(#[from] authorities::Error),
    /// The revocation lists cannot be read.
    #[error(transparent)]
    Revocation(#[from] revocation::Error),
    /// The cluster cannot be used.
    #[error(transparent)]
    Cluster(#[from] kubernetes::Error),
    /// The host key cannot be had.
    #[error(transparent)]
    HostKey(#[from] host_key::Error),
    /// The destination of audit records cannot be opened.
    #[error(transparent)]
    Audit(#[from] audit::Error),
    /// The bastion cannot listen on an address.
    #[error("cannot listen on {address}: {source}\n  `{setting}` names it; {}", listen_remedy(.source))]
    Listen {
        /// The setting with the address.
        setting: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    /// No source has answered, so `explain` cannot decide.
    #[error(
        "no source of authorities or revocation lists has answered\n  Check vault.address and that Vault is up, or KUBECONFIG and the cluster"
    )]
    NoAuthorities,
    /// No name server is usable.
    #[error(transparent)]
    NameServers(#[from] NoServers),
    /// Without the machine's own addresses the floor would have a hole.
    #[error("cannot find the addresses of this machine: {0}")]
    OwnAddresses(io::Error),
    /// Without the API server's addresses the floor would have another.
    #[error(transparent)]
    KubernetesApi(#[from] NoServiceHost),
    /// The operator requires a fence, and the kernel does not support it.
    #[error(transparent)]
    Fence(#[from] fence::Missing),
    /// The runtime's threads cannot be started.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// The signal handlers cannot be installed.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    /// A defect of the bastion.
    #[error("the accept loop ended by a defect of the bastion; please report it")]
    Defect,
}

impl Error {
    /// The exit code: 2 if the configuration must change, 1 otherwise.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Vault(_)
            | Self::VaultLogin(_)
            | Self::Authorities(_)
            | Self::Revocation(_)
            | Self::Cluster(_)
            | Self::HostKey(_)
            | Self::KubernetesApi(_)
            | Self::Audit(audit::Error::File { .. } | audit::Error::StandardOutput(_)) => 2,
            Self::Audit(audit::Error::Thread(_))
            | Self::Listen { .. }
            | Self::NoAuthorities
            | Self::NameServers(_)
            | Self::OwnAddresses(_)
            | Self::Fence(_)
            | Self::Runtime(_)
            | Self::Signals(_)
            | Self::Defect => 1,
        }
    }
}

fn listen_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "something else listens there already",
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; 0.0.0.0 stands for all it has"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege that the bastion can do without; try 2222"
        }
        _ => "choose another",
    }
}
