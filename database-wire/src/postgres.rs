//! Speaks the login of PostgreSQL's protocol 3, versions 3.0 to 3.2.
//!
//! The protocol is chapter "Frontend/Backend Protocol" of PostgreSQL's manual: `Start-up`, `SSL Session
//! Encryption`, `GSSAPI Session Encryption` and `Canceling Requests in Progress` in "Message Flow", "SASL
//! Authentication", "Message Formats" and "Error and Notice Message Fields".
//!
//! [`Server`] is what the local client talks to. It answers requests for encryption until there is a
//! [`Startup`], and then waits: [`Login::accept`] and [`Login::refuse`] are its only ends. [`Client`] logs in
//! to the real server, and ends with a [`Session`]: all that the server said until it was ready. A caller
//! gives the first the session of the second, and copies.
//!
//! A client that begins with TLS instead of asking for it (`sslnegotiation=direct`) says so with its first
//! byte, [`DIRECT_TLS`]. The caller sees it by peeking, and begins with [`Server::over_tls`].

mod certificate;
mod client;
mod error;
mod message;
mod scram;
mod server;
mod startup;
#[cfg(test)]
mod tests;

pub use certificate::end_point_hash;
pub use client::{Client, Refused, Session, Settings};
pub use error::{ServerError, explain};
pub use scram::{Nonce, ScramError};
pub use server::{Ask, Login, Method, Opening, Server, ServerRefused};
pub use startup::{CancelKey, MalformedStartup, Startup, Version, ZeroByte};

/// The first byte of a connection that begins with TLS. No length of a message has it.
pub const DIRECT_TLS: u8 = 0x16;

/// The longest first message of a client: PostgreSQL's own bound.
const LONGEST_STARTUP: usize = 10_000;
/// The longest message before the server is ready: libpq's own bound for an error.
const LONGEST_MESSAGE: usize = 30_000;
/// The longest message of a client that answers a question about a password.
const LONGEST_ANSWER: usize = 10_000;
/// The bytes that a server may say between its permission and `ReadyForQuery`, notices included.
const LONGEST_GREETING: usize = 64 * 1024;
/// The parameters of a startup message.
const MOST_PARAMETERS: usize = 128;
