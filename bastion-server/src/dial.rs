//! From a prospect to a connected socket: resolve, have every address checked, connect to one that was.
//!
//! Nothing here runs in a session's own task, so a name that takes long to resolve holds up one channel alone.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::access::{Denied, Host, Permit, Prospect};

/// The most addresses of one name that are looked at.
const MAX_ADDRESSES: usize = 16;

/// How targets are found and reached.
#[derive(Debug, Clone)]
pub struct Dialler {
    /// Names that the operator gave addresses to, in lower case; everything else is the system's resolver's.
    pub hosts: HashMap<String, Vec<IpAddr>>,
    /// How long resolving a name may take.
    pub resolve: Duration,
    /// How long connecting to one address may take.
    pub connect: Duration,
}

/// A connected target, and the permit to relay to it.
#[derive(Debug)]
pub struct Dialled {
    /// The socket.
    pub socket: TcpStream,
    /// The address it is connected to, which is one of the permit's.
    pub address: SocketAddr,
    /// What may be done with it.
    pub permit: Permit,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    /// The policy says no.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The name is not known, or its servers do not answer.
    #[error("the name does not resolve")]
    Unresolved,
    /// Resolving took too long.
    #[error("resolving the name took too long")]
    ResolveTimeout,
    /// Nobody listens there.
    #[error("the target refused the connection")]
    Refused,
    /// No answer from any of its addresses.
    #[error("the target does not answer")]
    ConnectTimeout,
    /// No way there, or none left on this side.
    #[error("the target cannot be reached: {0}")]
    Unreachable(io::ErrorKind),
}

impl DialError {
    /// The reason as logs, metrics and clients know it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Denied(denied) => denied.code(),
            Self::Unresolved => "unresolved",
            Self::ResolveTimeout => "resolve_timeout",
            Self::Refused => "connection_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

impl Dialler {
    /// Resolves, checks, connects.
    ///
    /// # Errors
    /// When the policy says no to what was found, or no address answers; of several addresses the last one's reason.
    pub async fn dial(&self, prospect: Prospect) -> Result<Dialled, DialError> {
        let port = prospect.destination().port();
        let addresses = self.addresses(prospect.destination().host()).await?;
        let permit = prospect.permit(&addresses)?;
        let mut last = DialError::Unresolved;
        for address in permit.addresses() {
            let address = SocketAddr::new(*address, port);
            match connect(address, self.connect).await {
                Ok(socket) => return Ok(Dialled { socket, address, permit }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// All the addresses of a host.
    ///
    /// # Errors
    /// When there are none, or too many, or it takes too long.
    pub async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, DialError> {
        let name = match host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        if let Some(addresses) = self.hosts.get(name) {
            return Ok(addresses.clone());
        }
        let found = timeout(self.resolve, lookup_host((name.as_str(), 0)))
            .await
            .map_err(|_| DialError::ResolveTimeout)?
            .map_err(|_| DialError::Unresolved)?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found.map(|found| found.ip()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        // What is not looked at is not connected to either, but it must not hide a forbidden address.
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(DialError::Unresolved);
        }
        Ok(addresses)
    }
}

async fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream, DialError> {
    let socket = timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| DialError::ConnectTimeout)?
        .map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => DialError::Refused,
            io::ErrorKind::TimedOut => DialError::ConnectTimeout,
            kind => DialError::Unreachable(kind),
        })?;
    socket.set_nodelay(true).map_err(|error| DialError::Unreachable(error.kind()))?;
    Ok(socket)
}
