//! Tells a program how to reach a database through a tunnel.

mod postgres;

use std::net::SocketAddr;

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{config::DatabaseKind, endpoint::Host};

/// Where a database is now, and as whom to use it.
pub(crate) struct Access<'a> {
    /// The local end of the tunnel.
    pub listen: SocketAddr,
    /// The name that the database's certificate is for.
    pub host: &'a Host,
    /// The database's own name.
    pub database: &'a str,
    /// As whom.
    pub user: &'a str,
    /// With what.
    pub password: &'a SecretString,
}

/// Whether a program verifies the name in the database's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verify {
    /// It is told the local address alone, which every program can use.
    No,
    /// It is told the database's name, and the local address as where that is.
    Name,
}

impl Access<'_> {
    /// A URL, without the password.
    pub(crate) fn url(&self, kind: DatabaseKind, verify: Verify) -> String {
        match kind {
            DatabaseKind::Postgres => postgres::url(self, verify),
        }
    }

    /// Environment variables, without the password.
    pub(crate) fn variables(&self, kind: DatabaseKind, verify: Verify) -> Vec<(&'static str, String)> {
        match kind {
            DatabaseKind::Postgres => postgres::variables(self, verify),
        }
    }

    /// The variable that names a password file, and what such a file holds.
    pub(crate) fn password_file(&self, kind: DatabaseKind) -> (&'static str, Zeroizing<String>) {
        match kind {
            DatabaseKind::Postgres => postgres::password_file(self),
        }
    }
}

/// The variables that could lead a program elsewhere than through the tunnel.
pub(crate) fn misleading(kind: DatabaseKind) -> &'static [&'static str] {
    match kind {
        DatabaseKind::Postgres => &postgres::MISLEADING,
    }
}

/// Whether a program that is started with these arguments, in this environment, will verify the database's name.
pub(crate) fn verifies<'a>(
    kind: DatabaseKind,
    arguments: impl IntoIterator<Item = &'a str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Verify {
    match kind {
        DatabaseKind::Postgres => postgres::verifies(arguments, variable),
    }
}
