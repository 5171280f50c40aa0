//! An SSH bastion: admits certificates of trusted authorities, forwards TCP where policy allows, writes down who
//! reached what.
//!
//! What happens to one connection, in order:
//!
//! 1. [`listener`] accepts it, asks [`throttle`] whether this source may start a login now, and starts the login
//!    deadline. From here on it can cut the socket, whatever state the session is in. Behind a load balancer,
//!    [`proxy_header`] says who the client is; and until the login it stands in the [`vestibule`], where little is heard,
//!    and its packets pass the [`turnstile`], where those that have not logged in take [`turns`].
//! 2. [`ssh::serve`] runs an SSH session on it. [`ssh::handler`] takes each question of the client to whoever answers it
//!    and decides nothing. What is neither a certificate login nor a `direct-tcpip` channel is refused.
//! 3. [`identity::certificate::admit`] looks at the certificate: an [`identity::Identity`], or a typed reason why not. It
//!    is a pure function, and the only one that makes an identity. [`census`] counts what that identity uses from now on.
//! 4. [`access::authorize`] looks at the destination: may any rule permit it? Then [`resolver`] finds its addresses, and
//!    [`access::Prospect::permit`] looks at every address that was found. It is the only maker of an [`access::Permit`], and
//!    [`dial`] connects to nothing else.
//! 5. [`ssh::forward`] relays, which takes a permit to begin, and stops when the permit is void: the certificate has
//!    expired, a change of the authorities or of the policy has taken it back, or the bastion shuts down.
//! 6. [`audit`] wrote a record at each of these steps, with the same reason that [`metrics`] counted and the client was
//!    told.
//!
//! Around that: [`server`] puts the parts together, [`config`] is what the operator wrote, [`authority_source`],
//! [`revocation_source`] and [`host_key`] follow files and Vault, [`admin`] answers health checks, [`drain`] goes from
//! SIGTERM to the last byte, and [`explain`] answers "who may reach what, and by which rule" without a connection. [`probe`] asks
//! another bastion whether it answers.
//! [`fence`] keeps whoever finds a hole in all this from most of what they came for.

pub mod accept;
pub mod access;
pub mod admin;
pub mod audit;
pub mod authority_source;
pub mod cli;
pub mod common;
pub mod config;
pub mod destination;
pub mod dial;
pub mod explain;
pub mod host_key;
pub mod identity;
pub mod kubernetes;
pub mod kubernetes_api;
pub mod limits;
pub mod means;
pub mod probe;
pub mod process;
pub mod reload;
pub mod revocation_source;
pub mod server;
pub mod ssh;
pub mod telemetry;
pub mod vault;
