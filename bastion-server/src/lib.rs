//! An SSH bastion: admits certificates of trusted authorities, forwards TCP where policy allows, and records
//! which client reached which destination.
//!
//! One connection passes these modules, in this order:
//!
//! 1. `accept` takes it from the listener, asks `limits::startups` whether its source may start a login now,
//!    and starts the login deadline. From here on it can cut the socket, in any state of the session. Behind
//!    a load balancer, `accept::proxy` reads the client's address. Until the login, `accept::prelogin` bounds
//!    what the client may send, and `accept::packet_gate` hands its packets on in the order of
//!    `accept::fair_queue`.
//! 2. `ssh` runs an SSH session on it. `ssh::handler` takes each request of the client to the module that
//!    answers it, and decides nothing. Everything but a certificate login and a `direct-tcpip` channel is
//!    refused.
//! 3. [`certificate::admit`] judges the certificate: it returns an [`Identity`], or a typed reason for the
//!    refusal. It is a pure function, and the only one that makes an identity. `limits::identities` counts
//!    what that identity uses from now on.
//! 4. `access::authorize` judges the destination: could any rule permit it? `dial::resolver` finds its
//!    addresses, and `access::Candidate::permit` judges every address that was found. It is the only function
//!    that makes a `access::Permit`, and `dial` connects to nothing else.
//! 5. `ssh::forward` relays. That takes a permit, and ends when the permit is void: the certificate has
//!    expired, a change of the authorities or of the policy has revoked it, or the bastion shuts down.
//! 6. `audit` writes a record at each of these steps, with the same reason that `telemetry::metrics` counts
//!    and the client is told.
//!
//! Around that path: `command` runs the subcommands, `server` builds the parts and runs them, `config` is the
//! operator's file, `trust` and `kubernetes` keep fresh what logins and destinations are judged by, and
//! `process` asks the kernel for a sandbox, for signals and for the machine's own addresses.
//!
//! A module imports only modules that stand lower in this list, which a test holds
//! (`tests/tests/architecture.rs`): `command`, `server`, `ssh`, `accept` and `trust`, `kubernetes`, `audit`,
//! `cli`, `dial`, `process`, `config`, `access`, `limits`, `identity`, `destination`, `telemetry`, `common`,
//! `session`.

mod accept;
mod access;
mod audit;
mod cli;
mod command;
mod common;
mod config;
mod destination;
mod dial;
mod identity;
mod kubernetes;
mod limits;
mod process;
mod server;
mod session;
mod ssh;
mod telemetry;
mod trust;

pub use accept::proxy::header::{Step as ProxyHeaderStep, step as read_proxy_header};
pub use access::floor::CLOUD_METADATA;
pub use command::bastion_main;
pub use config::{Config, Fence, json_schema};
pub use destination::{Destination, Host, pattern::DestinationPattern};
pub use dial::resolver::{Resolver, Settings as ResolverSettings};
pub use identity::{
    Identity, LoginName, MAX_BLOB, Principal,
    authorities::AuthoritySet,
    certificate,
    revocation::{MOST_ENTRIES, RevocationList, Revocations, Revoked},
};
pub use process::fence::{Bounds as FenceBounds, Kind as FenceKind, put_up as put_up_fence};
pub use server::fence_bounds;
pub use telemetry::metrics::{Direction, Metrics, WatchLabels};
