//! `pf-tunnel` and `pf-db-tunnel` as separate processes, each in a folder with a configuration file.

use std::{net::SocketAddr, os::fd::OwnedFd, time::Duration};

use serde_json::{Value, json};

use crate::{
    process::{Process, Program},
    scratch::Scratch,
    settings, wait,
};

/// What to start.
#[derive(Debug)]
pub struct Setup {
    config: Value,
    scratch: Scratch,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// A user who wants to go through a bastion (or an sshd), and has no other setting yet.
    #[must_use]
    pub fn new(bastion: SocketAddr) -> Self {
        let scratch = Scratch::new("project");
        std::fs::create_dir(scratch.join("home")).unwrap();
        Self {
            config: json!({"bastion": {"address": bastion.to_string()}, "vault": {}}),
            scratch,
            environment: Vec::new(),
        }
    }

    /// Believes an authority about hosts, by its public key as one line.
    #[must_use]
    pub fn host_authority(self, line: &str) -> Self {
        self.set("/bastion/host_authority", json!(line.trim()))
    }

    /// Gets certificates from this Vault, with this token in the environment.
    #[must_use]
    pub fn vault(self, url: &str, token: &str) -> Self {
        self.set("/vault/address", json!(url)).env("VAULT_TOKEN", token)
    }

    /// Sets any setting, by its path such as `/vault/ttl`.
    #[must_use]
    pub fn set(mut self, path: &str, value: Value) -> Self {
        settings::set(&mut self.config, path, value);
        self
    }

    /// One variable of its environment; a later value replaces an earlier one.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The folder where it runs, with `pf-tunnel.yaml` and `home`.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// A program of ours in that folder, not yet started.
    #[must_use]
    pub fn program(&self, name: &str, words: &[&str]) -> Program {
        // Every JSON text is YAML too.
        self.scratch.write("pf-tunnel.yaml", serde_json::to_string_pretty(&self.config).unwrap());
        let mut program = Program::ours(name)
            .args(words)
            .folder(self.scratch.path())
            .env("HOME", self.scratch.join("home"));
        for (name, value) in &self.environment {
            program = program.env(name, value);
        }
        program
    }

    /// `pf-tunnel --json WORDS`.
    #[must_use]
    pub fn start(&self, words: &[&str]) -> Tunnel {
        Tunnel { process: self.program("pf-tunnel", &["--json"]).args(words).start() }
    }

    /// `pf-db-tunnel --json WORDS`.
    #[must_use]
    pub fn start_database(&self, words: &[&str]) -> Tunnel {
        Tunnel { process: self.program("pf-db-tunnel", &["--json"]).args(words).start() }
    }

    /// `pf-db-tunnel --json WORDS`, on a terminal that it controls.
    #[must_use]
    pub fn start_database_on(&self, terminal: OwnedFd, words: &[&str]) -> Tunnel {
        Tunnel { process: self.program("pf-db-tunnel", &[]).args(words).start_on(terminal) }
    }
}

/// A running tunnel that tells what happens as one JSON object a line.
#[derive(Debug)]
pub struct Tunnel {
    /// The process.
    pub process: Process,
}

impl Tunnel {
    /// Everything that happened until now.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.process.json()
    }

    /// How often something happened.
    #[must_use]
    pub fn count(&self, event: &str) -> usize {
        self.events().iter().filter(|one| one["event"] == event).count()
    }

    /// Waits until something has happened `count` times, and returns the last.
    ///
    /// # Panics
    /// When the deadline passes, or the program ends, first.
    pub fn nth(&mut self, event: &str, count: usize, deadline: Duration) -> Value {
        let process = &mut self.process;
        wait::until(&format!("{count} × {event}"), deadline, || {
            let ended = process.ended();
            let found = process.json().into_iter().filter(|one| one["event"] == event).nth(count - 1);
            assert!(found.is_some() || ended.is_none(), "it ended ({ended:?}) before {event:?}");
            found
        })
    }

    /// [`Tunnel::nth`], for the first.
    pub fn event(&mut self, event: &str, deadline: Duration) -> Value {
        self.nth(event, 1, deadline)
    }

    /// Waits until bytes can flow through `count` forwards, and returns their local addresses in the order of
    /// the command line.
    pub fn ready(&mut self, count: usize) -> Vec<SocketAddr> {
        self.nth("ready", count, wait::START);
        let ready = self.events().into_iter().filter(|one| one["event"] == "ready").take(count);
        ready.map(|one| one["listen"].as_str().unwrap().parse().unwrap()).collect()
    }
}
