//! A bastion of ours, as a separate process with a configuration file, on free loopback ports.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    forge::{Forge, line},
    http,
    key::Key,
    ports,
    process::{Process, Program, user},
    scratch::Scratch,
    settings, wait,
};

/// The login name of the configuration files that we show.
pub const LOGIN: &str = "tunnel";

/// What to start.
#[derive(Debug)]
pub struct Setup {
    config: Value,
    scratch: Scratch,
    environment: Vec<(String, String)>,
    run_as: Option<String>,
}

impl Setup {
    /// A bastion that trusts no authority, with no rule, and with loopback opened, since that is where all
    /// targets of tests are.
    #[must_use]
    pub fn new() -> Self {
        let scratch = Scratch::new("bastion");
        let host_key = scratch.write("host_key", Key::ed25519().private_pem());
        let config = json!({
            "listen": format!("127.0.0.1:{}", ports::free()),
            "host_key": {"file": host_key},
            "authorities": [],
            // The second is whom a stock sshd would let in: the same certificate can go to both.
            "login": {"users": [LOGIN, user()]},
            "rules": [],
            "open_networks": ["loopback"],
            "admin": {"listen": format!("127.0.0.1:{}", ports::free())},
            "log": {"level": "debug"},
            // All tests come from the same few addresses, and many fail on purpose.
            "limits": {"penalties": {"longest": "0s"}},
            "drain": {"readiness_delay": "0s", "timeout": "2s"},
        });
        Self { config, scratch, environment: Vec::new(), run_as: None }
    }

    /// Trusts the certificates of an authority.
    #[must_use]
    pub fn trust(self, authority: &Key) -> Self {
        self.trust_line(&authority.public_line())
    }

    /// [`Setup::trust`], by the authority's public key as one line.
    #[must_use]
    pub fn trust_line(mut self, line: &str) -> Self {
        push(&mut self.config["authorities"], json!({"key": line.trim()}));
        self
    }

    /// Takes its authorities and its host key from this Vault. It logs in with a token of its environment.
    #[must_use]
    pub fn keys_of_vault(self, url: &str) -> Self {
        let host_key = json!({"mount": "ssh-host", "role": "bastion", "principals": ["127.0.0.1"]});
        self.set("/authorities", json!([{"vault": {"mount": "ssh"}}]))
            .set("/host_key", json!({"vault": host_key}))
            .set("/vault", json!({"address": url}))
    }

    /// Permits a principal to reach destinations, if there are any.
    #[must_use]
    pub fn rule(mut self, principal: &str, to: &[&str]) -> Self {
        if to.is_empty() {
            return self;
        }
        let rules = &mut self.config["rules"];
        let name = format!("rule {}", rules.as_array().map_or(0, Vec::len) + 1);
        push(rules, json!({"name": name, "who": {"principals": [principal]}, "to": to}));
        self
    }

    /// Presents a host certificate for `name`, signed by `authority`.
    #[must_use]
    pub fn certify(self, authority: &Key, name: &str) -> Self {
        let key = Key::read(Path::new(self.config["host_key"]["file"].as_str().unwrap()));
        let certificate =
            self.scratch.write("host_key-cert.pub", line(&Forge::host(&key, name).sign(authority)));
        self.set("/host_key/certificate", json!(certificate))
    }

    /// Sets any setting, by its path such as `/limits/login_deadline`.
    #[must_use]
    pub fn set(mut self, path: &str, value: Value) -> Self {
        settings::set(&mut self.config, path, value);
        self
    }

    /// One variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it as another user, which only root may ask for.
    #[must_use]
    pub fn as_user(mut self, name: &str) -> Self {
        self.run_as = Some(name.to_owned());
        self
    }

    /// Starts it, and waits until it is ready.
    #[must_use]
    pub fn start(self) -> Bastion {
        let address = |value: &Value| -> SocketAddr { value.as_str().unwrap().parse().unwrap() };
        let mut bastion = Bastion {
            process: None,
            address: address(&self.config["listen"]),
            admin: address(&self.config["admin"]["listen"]),
            setup: self,
        };
        bastion.start_again();
        bastion
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

fn push(list: &mut Value, value: Value) {
    list.as_array_mut().unwrap().push(value);
}

/// A bastion, running or not.
#[derive(Debug)]
pub struct Bastion {
    process: Option<Process>,
    address: SocketAddr,
    admin: SocketAddr,
    setup: Setup,
}

impl Bastion {
    /// Where SSH clients are accepted.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where health and metrics are.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The process.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the bastion runs")
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.setup.scratch.join("bastion.yaml")
    }

    /// Changes a setting in the file of the running bastion, in one step, as an operator does.
    pub fn change(&mut self, path: &str, value: Value) {
        let place = self.setup.config.pointer_mut(path).expect("the setting is in the file");
        *place = value;
        let text = serde_json::to_string_pretty(&self.setup.config).unwrap();
        self.replace_config(&text);
    }

    /// Replaces its file, in one step, by any text.
    pub fn replace_config(&self, text: &str) {
        std::fs::rename(self.setup.scratch.write("next", text), self.config()).unwrap();
    }

    /// The key that it presents.
    #[must_use]
    pub fn host_key(&self) -> Key {
        Key::read(Path::new(self.setup.config["host_key"]["file"].as_str().unwrap()))
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        self.process().kill();
    }

    /// Starts it on the same ports, with the same configuration.
    pub fn start_again(&mut self) {
        // Every JSON text is YAML too.
        let text = serde_json::to_string_pretty(&self.setup.config).unwrap();
        let config = self.setup.scratch.write("bastion.yaml", text);
        let mut program = match &self.setup.run_as {
            None => Program::ours("bastion-server"),
            // Our build folder may be closed to others.
            Some(name) => {
                let copy = self.setup.scratch.join("bastion-server");
                std::fs::copy(crate::process::ours("bastion-server"), &copy).unwrap();
                let user = nix::unistd::User::from_name(name).unwrap().expect("the user exists");
                for entry in std::fs::read_dir(self.setup.scratch.path()).unwrap() {
                    nix::unistd::chown(&entry.unwrap().path(), Some(user.uid), Some(user.gid)).unwrap();
                }
                Program::new(copy).as_user(name)
            }
        };
        for (name, value) in &self.setup.environment {
            program = program.env(name, value);
        }
        let mut process = program.arg(config).folder(self.setup.scratch.path()).start();
        let admin = self.admin;
        process.wait_until_up(|| http::get(admin, "/readyz").is_ok_and(|response| response.status == 200));
        self.process = Some(process);
    }

    /// Its audit records until now.
    #[must_use]
    pub fn audit(&self) -> Vec<Value> {
        self.process.as_ref().expect("the bastion runs").json()
    }

    /// Waits for an audit record, and returns it.
    #[must_use]
    pub fn audited(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        wait::until(what, Duration::from_secs(10), || self.audit().into_iter().find(|record| fits(record)))
    }

    /// Its log until now.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().expect("the bastion runs").stderr()
    }

    /// One page of its admin listener.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn page(&self, path: &str) -> http::Response {
        http::get(self.admin, path).unwrap()
    }
}
