//! Speaks the login of MySQL's and MariaDB's protocol, with the greeting of version 10.
//!
//! The protocol is "Connection Phase" of "MySQL Client/Server Protocol" in MySQL's source documentation
//! (`Protocol::HandshakeV10`, `HandshakeResponse41`, `SSLRequest`, `AuthSwitchRequest`, `AuthMoreData`,
//! "Caching_sha2_password information"), and "Connecting" of the protocol's pages in MariaDB's manual.
//!
//! The server speaks first, and its greeting says what the rest of the connection looks like. So the order
//! is that of the bytes: [`Greeter`] reads the server's greeting; [`Server`] greets the local client with it,
//! less what cannot be passed through, and ends with a [`Login`]; [`Greeted::log_in`] goes on with the
//! server, with the flags that the client chose; and [`Login::accept`] gives the client the server's own OK.
//! Both sides have then agreed to the same, and the relay copies.
//!
//! A client is let in with any password, and sends none: it is never asked to send one in clear, nor to
//! encrypt it for us.

mod client;
mod error;
mod greeting;
mod packet;
mod response;
mod scramble;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Client, Greeted, Greeter, Refused, Session, Settings};
pub use error::{ServerError, explain};
pub use greeting::{Greeting, Malformed};
pub use packet::BadPacket;
pub use response::Response;
pub use scramble::{ServerKey, UnusableKey};
pub use server::{Login, Server, ServerRefused};

/// The longest packet of a server during the login.
const LONGEST_PACKET: usize = 16 * 1024;
/// The longest packet of a client during the login. Its attributes may have 64 KiB.
const LONGEST_RESPONSE: usize = 72 * 1024;
/// The attributes of a connection.
const MOST_ATTRIBUTES: usize = 256;

/// Flags of both sides (`CLIENT_…`), of which the two ends of a connection use what both have.
mod flag {
    pub(super) const LONG_PASSWORD: u32 = 1;
    pub(super) const CONNECT_WITH_DB: u32 = 1 << 3;
    pub(super) const COMPRESS: u32 = 1 << 5;
    pub(super) const PROTOCOL_41: u32 = 1 << 9;
    pub(super) const SSL: u32 = 1 << 11;
    pub(super) const SECURE_CONNECTION: u32 = 1 << 15;
    pub(super) const PLUGIN_AUTH: u32 = 1 << 19;
    pub(super) const CONNECT_ATTRS: u32 = 1 << 20;
    pub(super) const LENENC_AUTH: u32 = 1 << 21;
    pub(super) const ZSTD: u32 = 1 << 26;
    pub(super) const MULTI_FACTOR: u32 = 1 << 28;
    pub(super) const EXTENSION: u32 = 1 << 29;
    /// Without these there is no login that is supported here.
    pub(super) const NEEDED: u32 = PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH;
    /// Compression would have to be undone to say anything to the client, several factors need the client,
    /// and TLS is agreed upon by each side for itself.
    pub(super) const WITHHELD: u32 = COMPRESS | ZSTD | MULTI_FACTOR | EXTENSION | SSL;
    /// Of MariaDB's own flags, those that change nothing but the packets of commands: progress, bulk
    /// operations and their results, and metadata.
    pub(super) const MARIADB: u32 = 0b11_1101;
}

/// Plugins that both sides know.
mod plugin {
    pub(super) const NATIVE: &[u8] = b"mysql_native_password";
    pub(super) const CACHING: &[u8] = b"caching_sha2_password";
    pub(super) const ED25519: &[u8] = b"client_ed25519";
}
