//! The in-memory authority of `vault-signer dev`, as a separate process on a free loopback port.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{
    process::{Process, Program},
    wait,
};

/// A running authority.
#[derive(Debug)]
pub struct DevAuthority {
    process: Process,
    about: Value,
    listen: SocketAddr,
    words: Vec<String>,
}

impl DevAuthority {
    /// Starts one that signs for the principal `tunnel`.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more arguments.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with(words: &[&str]) -> Self {
        let listen = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, crate::ports::free()));
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let process = run(listen, &words);
        let about = about(&process);
        Self { process, about, listen, words }
    }

    fn text(&self, name: &str) -> &str {
        self.about[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.about))
    }

    /// Its address as `VAULT_ADDR` has it.
    #[must_use]
    pub fn url(&self) -> &str {
        self.text("address")
    }

    /// The only token that it knows.
    #[must_use]
    pub fn token(&self) -> &str {
        self.text("root_token")
    }

    /// The public key that users' certificates are signed with, as one line.
    #[must_use]
    pub fn users(&self) -> &str {
        self.text("user_authority")
    }

    /// The public key that hosts' certificates are signed with, as one line.
    #[must_use]
    pub fn hosts(&self) -> &str {
        self.text("host_authority")
    }

    /// Stops answering, as if the network were gone; its keys stay.
    pub fn pause(&self) {
        self.process.signal(nix::sys::signal::Signal::SIGSTOP);
    }

    /// Answers again.
    pub fn resume(&self) {
        self.process.signal(nix::sys::signal::Signal::SIGCONT);
    }

    /// Replaces it with another at the same address, whose keys and token are new.
    pub fn replace(&mut self) {
        self.process.kill();
        self.process = run(self.listen, &self.words);
        self.about = about(&self.process);
    }
}

fn run(listen: SocketAddr, words: &[String]) -> Process {
    Program::ours("vault-signer").args(["dev", "--json", "--listen", &listen.to_string()]).args(words).start()
}

fn about(process: &Process) -> Value {
    wait::until("the development authority", wait::START, || process.json().into_iter().next())
}
