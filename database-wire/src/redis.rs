//! Speaks the login of Redis and Valkey, in both versions of their protocol, RESP2 and RESP3.
//!
//! The protocol is the page "Redis serialization protocol specification" of the manual, with "Inline
//! commands", and the pages of the commands `AUTH` and `HELLO`.
//!
//! Redis has no login that ends: a client may send `AUTH` or `HELLO … AUTH …` at any time, and most drivers
//! do so between other commands, without waiting for an answer. So the local side is a filter for a whole
//! session. [`Session`] passes the client's bytes on as they are, and puts our credentials in the place of
//! every pair that the client sends: the server itself answers each command, in order, and a client with any
//! password or none is logged in. [`Client`] logs in to the server before that. [`Refusing`] answers each
//! command of a client with the reason for which it is not served.
//!
//! There is no negotiation of TLS: it begins the connection, or is absent. A caller tells a client that
//! begins with TLS by its first byte, [`DIRECT_TLS`](crate::postgres::DIRECT_TLS).

mod client;
mod command;
mod error;
mod session;
#[cfg(test)]
mod tests;

pub use client::{Client, Credentials, Refused};
pub use command::Malformed;
pub use error::{ServerError, explain};
pub use session::{Piece, Refusing, Session};

/// The longest inline command: Redis' own bound.
const LONGEST_INLINE: usize = 64 * 1024;
/// The longest `HELLO`, whose arguments are collected.
const LONGEST_HELLO: usize = 16 * 1024;
/// The arguments of a `HELLO`. It has seven at most.
const MOST_OF_HELLO: u64 = 16;
/// The arguments of any command: Redis' own bound.
const MOST_ARGUMENTS: u64 = i32::MAX as u64;
/// The longest argument of any command: Redis' bound is a setting, and 512 MiB unless it is set.
const LONGEST_ARGUMENT: u64 = 1 << 40;
/// The longest line with a number in it.
const LONGEST_NUMBER: usize = 32;
/// The longest answer to our login.
const LONGEST_ANSWER: usize = 4 * 1024;
/// The commands that are answered with a refusal before the connection has to end.
const MOST_REFUSALS: u32 = 100;
