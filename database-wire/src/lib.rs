//! Speaks the logins of databases, on either side of a connection, without IO, clock or tasks.
//!
//! A proxy that adds credentials logs a client in without a secret, logs in to the server with one, and then
//! copies bytes. This crate is all of that but the copying: for each protocol a machine that is the server
//! for the client, a machine that is the client of the server, and the error that the protocol shows to a
//! person.
//!
//! - [`postgres`]: PostgreSQL's protocol 3;
//! - [`mysql`]: MySQL's and MariaDB's protocol, greeting version 10;
//! - [`redis`]: the protocol of Redis and Valkey, RESP2 and RESP3;
//! - `step`: how a machine and its caller talk. A machine says how many bytes it wants, and is never given
//!   more: so what follows a login is still in the socket, where the relay finds it;
//! - `link`: what TLS has to be, and what it was;
//! - `password`: the only form in which a secret is held;
//! - `explanation`: a refusal that a person reads, in the words of each protocol.
//!
//! Every length that a peer announces is compared with a bound before memory is taken for it, and every
//! refusal is a value with a reason. `README.md` beside this crate shows a caller, and how a bastion that
//! inspects would use the same machines.

mod explanation;
mod hash;
mod inbox;
mod link;
pub mod mysql;
mod password;
pub mod postgres;
mod reader;
pub mod redis;
mod step;

pub use explanation::{Explanation, Reason};
pub use link::{ClearPassword, LocalTls, TlsFacts, TlsMode};
pub use password::{Password, UnusablePassword};
pub use step::{Machine, Outgoing, Step};

/// The example of the README is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
