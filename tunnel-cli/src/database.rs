//! What a program has to be told to reach a database through a tunnel.

mod postgres;

use std::net::SocketAddr;

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::config::DatabaseKind;

/// Where a database is now, and as whom to use it.
pub struct Access<'a> {
    /// The local end of the tunnel.
    pub listen: SocketAddr,
    /// The database's own name.
    pub database: &'a str,
    /// As whom.
    pub user: &'a str,
    /// With what.
    pub password: &'a SecretString,
}

impl Access<'_> {
    /// A URL, without the password.
    pub fn url(&self, kind: DatabaseKind) -> String {
        match kind {
            DatabaseKind::Postgres => postgres::url(self),
        }
    }

    /// Environment variables, without the password.
    pub fn variables(&self, kind: DatabaseKind) -> Vec<(&'static str, String)> {
        match kind {
            DatabaseKind::Postgres => postgres::variables(self),
        }
    }

    /// The variable that names a password file, and what such a file holds.
    pub fn password_file(&self, kind: DatabaseKind) -> (&'static str, Zeroizing<String>) {
        match kind {
            DatabaseKind::Postgres => postgres::password_file(self),
        }
    }
}
