//! Sets up what most tests begin with: a bastion and a client that it admits, or the whole path of
//! `pf-tunnel`.

use std::net::SocketAddr;

use crate::{
    authority::DevAuthority,
    bastion::{self, Bastion, LOGIN},
    forge::Forge,
    key::Key,
    rogue::{Attempt, Channel, Client},
    target::Target,
    tunnel::{self, Tunnel},
};

/// A bastion, an authority that it trusts, a client's key, and an echo behind the bastion.
#[derive(Debug)]
pub struct Fixture {
    /// Signs the client's certificates.
    pub authority: Key,
    /// The client's.
    pub key: Key,
    /// Sends back what it gets.
    pub echo: Target,
    /// The bastion.
    pub bastion: Bastion,
}

impl Fixture {
    /// One whose only rule lets the client reach the echo.
    #[must_use]
    pub fn new() -> Self {
        Self::with(|setup| setup)
    }

    /// [`Fixture::new`], with a setup that differs.
    #[must_use]
    pub fn with(adjust: impl FnOnce(bastion::Setup) -> bastion::Setup) -> Self {
        Self::to(&[], adjust)
    }

    /// [`Fixture::with`], where the rule lets the client reach these targets too.
    #[must_use]
    pub fn to(targets: &[&Target], adjust: impl FnOnce(bastion::Setup) -> bastion::Setup) -> Self {
        let echo = Target::echo();
        let to: Vec<_> = targets.iter().chain(&[&echo]).map(|target| target.address().to_string()).collect();
        let to: Vec<_> = to.iter().map(String::as_str).collect();
        Self::around(echo, |setup| adjust(setup.rule(LOGIN, &to)))
    }

    /// One without a rule.
    #[must_use]
    pub fn without_rules(adjust: impl FnOnce(bastion::Setup) -> bastion::Setup) -> Self {
        Self::around(Target::echo(), adjust)
    }

    fn around(echo: Target, adjust: impl FnOnce(bastion::Setup) -> bastion::Setup) -> Self {
        let (authority, key) = (Key::ed25519(), Key::ed25519());
        let bastion = adjust(bastion::Setup::new().trust(&authority)).start();
        Self { authority, key, echo, bastion }
    }

    /// The client's certificate.
    #[must_use]
    pub fn certificate(&self) -> Vec<u8> {
        self.certificate_with(|_| {})
    }

    /// [`Fixture::certificate`], which differs.
    #[must_use]
    pub fn certificate_with(&self, change: impl FnOnce(&mut Forge)) -> Vec<u8> {
        Forge::user(&self.key, LOGIN).with(change).sign(&self.authority)
    }

    /// The question of a login.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        Attempt::certificate(LOGIN, &self.key, self.certificate())
    }

    /// Logs the client in.
    #[must_use]
    pub fn login(&self) -> Client {
        self.login_with(|_| {})
    }

    /// [`Fixture::login`], with a certificate that differs.
    #[must_use]
    pub fn login_with(&self, change: impl FnOnce(&mut Forge)) -> Client {
        Client::login(self.bastion.address(), LOGIN, &self.key, self.certificate_with(change))
    }

    /// Asks for a forward to the echo: the channel, or the reason of the refusal.
    ///
    /// # Panics
    /// When the connection ends first.
    pub fn open(&self, client: &mut Client) -> Result<Channel, String> {
        client.forward("127.0.0.1", self.echo.port().into()).unwrap().map_err(|failure| failure.text)
    }
}

impl Default for Fixture {
    fn default() -> Self {
        Self::new()
    }
}

/// The whole path of `pf-tunnel`: an authority, a bastion that takes its keys from there, and a project's
/// folder.
#[derive(Debug)]
pub struct TunnelFixture {
    /// Signs for clients and for the bastion.
    pub authority: DevAuthority,
    /// The bastion.
    pub bastion: Bastion,
    /// What `pf-tunnel` is started in.
    pub project: tunnel::Setup,
}

impl TunnelFixture {
    /// One whose rule lets clients reach these targets.
    #[must_use]
    pub fn new(to: &[&Target]) -> Self {
        Self::with(to, |bastion| bastion, |project| project)
    }

    /// [`TunnelFixture::new`], with setups that differ.
    #[must_use]
    pub fn with(
        to: &[&Target],
        adjust: impl FnOnce(bastion::Setup) -> bastion::Setup,
        project: impl FnOnce(tunnel::Setup) -> tunnel::Setup,
    ) -> Self {
        let authority = DevAuthority::start();
        let to: Vec<_> = to.iter().map(|target| target.address().to_string()).collect();
        let to: Vec<_> = to.iter().map(String::as_str).collect();
        let setup = bastion::Setup::new()
            .keys_of_vault(authority.url())
            .env("VAULT_TOKEN", authority.token())
            .rule(LOGIN, &to);
        let bastion = adjust(setup).start();
        let setup = tunnel::Setup::new(bastion.address())
            .host_authority(authority.hosts())
            .vault(authority.url(), authority.token());
        Self { authority, bastion, project: project(setup) }
    }

    /// Starts a tunnel to one target, and returns its local address too.
    #[must_use]
    pub fn tunnel(&self, target: &Target) -> (Tunnel, SocketAddr) {
        let mut tunnel = self.project.start(&[&target.address().to_string(), "0"]);
        let local = tunnel.ready(1)[0];
        (tunnel, local)
    }
}
