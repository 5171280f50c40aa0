//! The in-memory authority behind Vault's own HTTP paths, for development: it has no users and keeps nothing.

mod api;

use std::{future::IntoFuture as _, time::Duration};

use secrecy::SecretString;
use ssh_key::PublicKey;
use tokio::{net::TcpListener, sync::oneshot};

use crate::{
    request::Kind,
    signer::local::{Local, Role},
};

/// How long those who are asking already may take.
const GRACE: Duration = Duration::from_secs(1);

/// What it says where a server says its version.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-vault-signer-dev");

/// Where the authority for users is mounted, and its role.
pub const USERS: (&str, &str) = ("ssh", "forward");

/// Where the authority for hosts is mounted, and its role.
pub const HOSTS: (&str, &str) = ("ssh-host", "bastion");

/// What the stand-in signs, and for whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// The only token that it knows.
    pub root_token: SecretString,
    /// Who may be named in a user's certificate; the first is named when none is asked for.
    pub principals: Vec<String>,
    /// The longest that a user's certificate lives.
    pub max_ttl: Duration,
}

/// Two authorities, made anew each time.
#[derive(Debug)]
pub struct Authority {
    root_token: SecretString,
    users: Local,
    hosts: Local,
}

impl Authority {
    /// Makes both keys.
    ///
    /// # Errors
    /// If a key cannot be made.
    pub fn generate(options: Options) -> Result<Self, ssh_key::Error> {
        let users = Local::generate(Role {
            name: USERS.1.to_owned(),
            kind: Kind::User,
            principals: options.principals,
            ttl: options.max_ttl.min(Duration::from_secs(1800)),
            max_ttl: options.max_ttl,
        })?;
        let hosts = Local::generate(Role {
            name: HOSTS.1.to_owned(),
            kind: Kind::Host,
            principals: vec!["*".to_owned()],
            ttl: Duration::from_secs(24 * 3600),
            max_ttl: Duration::from_secs(30 * 24 * 3600),
        })?;
        Ok(Self { root_token: options.root_token, users, hosts })
    }

    /// The key that signs users.
    #[must_use]
    pub fn users(&self) -> &PublicKey {
        self.users.public_key()
    }

    /// The key that signs hosts.
    #[must_use]
    pub fn hosts(&self) -> &PublicKey {
        self.hosts.public_key()
    }
}

/// Answers on `listener` until `stop`, and then for at most a second more to who is asking already.
///
/// # Errors
/// What the system says of the listener.
pub async fn serve(
    listener: TcpListener,
    authority: Authority,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (stopping, stopped) = oneshot::channel::<()>();
    let stop = async move {
        stop.await;
        drop(stopping);
    };
    let late = async {
        // An error, since the sender is dropped and sends nothing.
        let _ = stopped.await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = axum::serve(listener, api::router(authority)).with_graceful_shutdown(stop).into_future() => served,
        () = late => Ok(()),
    }
}

#[cfg(test)]
mod tests;
