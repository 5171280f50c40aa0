//! Why the bastion cannot begin to serve, and the exit code of each reason.

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
    /// Where Vault is.
    #[error(transparent)]
    Vault(#[from] SettingsError),
    /// How the bastion logs in there.
    #[error(transparent)]
    VaultLogin(#[from] vault::Error),
    /// Whose certificates are believed.
    #[error(transparent)]
    Authorities(#[from] authorities::Error),
    /// Which certificates are not believed any more.
    #[error(transparent)]
    Revocation(#[from] revocation::Error),
    /// What there is to ask of a cluster.
    #[error(transparent)]
    Cluster(#[from] kubernetes::Error),
    /// Who the bastion is.
    #[error(transparent)]
    HostKey(#[from] host_key::Error),
    /// Where audit records go.
    #[error(transparent)]
    Audit(#[from] audit::Error),
    /// An address that cannot be listened on.
    #[error("cannot listen on {address}: {source}\n  `{setting}` names it; {}", listen_remedy(.source))]
    Listen {
        /// The setting that names it.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// The operating system's words.
        source: io::Error,
    },
    /// No authority is known, so nothing can be said.
    #[error(
        "nobody says which authorities to trust, and what is revoked\n  Is Vault there, and is vault.address right? Or the cluster, and KUBECONFIG?"
    )]
    NoAuthorities,
    /// Which name servers to ask.
    #[error(transparent)]
    NameServers(#[from] NoServers),
    /// Without these addresses the floor would have a hole.
    #[error("cannot find the addresses of this machine: {0}")]
    OwnAddresses(io::Error),
    /// Without these addresses it would have another.
    #[error(transparent)]
    KubernetesApi(#[from] NoServiceHost),
    /// A fence that the operator wants and the kernel has not.
    #[error(transparent)]
    Fence(#[from] fence::Missing),
    /// The threads that everything runs on.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// The signal handlers.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    /// A defect.
    #[error("the accept loop ended by a defect of the bastion; please report it")]
    Defect,
}

impl Error {
    /// What the process tells who started it: 2 if the configuration must change, 1 otherwise.
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
