//! Everything between the tunnel and Vault or OpenBao: log in, have a key signed, check what came back.
//!
//! The path of one certificate, in the order in which it is best read:
//!
//! 1. [`Server`] is where Vault is and how it is reached; it has the only HTTP client.
//! 2. A [`login::Login`] turns what a person or a machine holds into a [`Token`].
//! 3. [`Credential::generate`] makes a key in memory and hands its public half to a [`Signer`]:
//!    [`Vault`], or [`Local`], which signs by itself for development and tests.
//! 4. [`certificate::check`] compares what came back with what was asked for. No certificate leaves a
//!    signer without having passed it.
//!
//! Beside that path: [`database`] gets credentials that live as long as their lease, [`bootstrap`] sets a
//! server up, and [`dev`] puts the local signer behind Vault's own HTTP paths.

pub mod bootstrap;
pub mod certificate;
pub mod clock;
pub mod core_dump;
pub mod credential;
pub mod database;
pub mod dev;
mod domain;
mod http;
pub mod login;
mod request;
#[cfg(test)]
mod rogue;
pub mod server;
pub mod signer;
mod text;
pub mod token;

use std::pin::Pin;

pub use credential::{Credential, KeyType};
pub use domain::DOMAIN;
pub use http::{Error, Errors};
pub use request::{Kind, Request};
pub use server::{Server, Settings};
pub use signer::{SignError, Signer, local::Local, vault::Vault};
pub use text::list;
pub use token::Token;

/// The future that an object-safe trait returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
