//! The stock OpenSSH client, told to look at nothing but what the test gives it.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    forge::write_identity,
    key::Key,
    ports,
    process::{Process, Program, installed},
    scratch::Scratch,
    wait,
};

/// One person with a key, a certificate, and a list of known hosts.
#[derive(Debug)]
pub struct Person {
    scratch: Scratch,
    identity: PathBuf,
    login: String,
    known_hosts: String,
}

impl Person {
    /// A person who logs in as `login` with this certificate, and knows no host yet.
    #[must_use]
    pub fn new(login: &str, key: &Key, certificate: &[u8]) -> Self {
        let scratch = Scratch::new("person");
        let identity = write_identity(&scratch, "id", key, certificate);
        Self { scratch, identity, login: login.to_owned(), known_hosts: String::new() }
    }

    /// Knows a server by its key.
    #[must_use]
    pub fn knows(self, server: SocketAddr, key: &Key) -> Self {
        self.knows_line(&format!("[{}]:{} {}", server.ip(), server.port(), key.public_line()))
    }

    /// Believes an authority about every host.
    #[must_use]
    pub fn believes(self, authority: &Key) -> Self {
        self.believes_line(&authority.public_line())
    }

    /// [`Person::believes`], by the authority's public key as one line.
    #[must_use]
    pub fn believes_line(self, line: &str) -> Self {
        self.knows_line(&format!("@cert-authority * {line}"))
    }

    /// Knows what a line of a `known_hosts` file says.
    #[must_use]
    pub fn knows_line(mut self, line: &str) -> Self {
        self.known_hosts.push_str(line.trim());
        self.known_hosts.push('\n');
        self
    }

    /// The folder of the person's files.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The options that keep the developer's own configuration out, and the name of the server comes last.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let known_hosts = self.scratch.write("known_hosts", &self.known_hosts);
        let mut words = vec!["-F".to_owned(), "none".to_owned()];
        for option in [
            format!("IdentityFile={}", self.identity.display()),
            format!("UserKnownHostsFile={}", known_hosts.display()),
            format!("User={}", self.login),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "UpdateHostKeys=no".to_owned(),
            "BatchMode=yes".to_owned(),
            "ExitOnForwardFailure=yes".to_owned(),
            "ControlPath=none".to_owned(),
        ] {
            words.extend(["-o".to_owned(), option]);
        }
        words
    }

    /// `ssh OPTIONS WORDS SERVER`.
    #[must_use]
    pub fn ssh(&self, server: SocketAddr, words: &[&str]) -> Program {
        Program::new(installed("ssh"))
            .again_if(gave_up)
            .args(self.options())
            .args(["-p", &server.port().to_string()])
            .args(words)
            .arg(server.ip().to_string())
    }

    /// `ssh -N WORDS SERVER`, once it listens on these ports. Where it [`gave_up`], it is started again.
    ///
    /// # Panics
    /// When it ends by anything else, or does not listen within [`wait::START`].
    #[must_use]
    pub fn forward(&self, server: SocketAddr, words: &[&str], local: &[SocketAddr]) -> Process {
        let start = || self.ssh(server, &[&["-N"], words].concat()).start();
        let mut ssh = start();
        wait::until_true("ssh listens", wait::START, || {
            if ssh.ended().is_some() {
                assert!(gave_up(&ssh.stderr()), "{}", ssh.stderr());
                ssh = start();
            }
            local.iter().all(|address| ports::is_listening(*address))
        });
        ssh
    }
}

/// Whether `ssh`, which wrote this to its standard error, gave up by itself while keys were exchanged: poll
/// announced bytes, read found none, and OpenSSH takes that for an error, as happens on a busy machine.
/// No server refused it, and nothing was sent through it: it may be tried again.
#[must_use]
pub fn gave_up(said: &str) -> bool {
    said.lines().any(|line| {
        line.starts_with("ssh_dispatch_run_fatal: Connection to ")
            && line.ends_with(": Resource temporarily unavailable")
    })
}
