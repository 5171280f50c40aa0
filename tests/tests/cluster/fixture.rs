//! An API server with our definitions, and bastions that may do there what the chart's Role lets them and
//! nothing else.

use std::{net::IpAddr, path::PathBuf, sync::LazyLock, time::Duration};

use serde_json::{Value, json};
use tests::{
    bastion::{LOGIN, Setup},
    chart,
    cluster::{ApiServer, Minor, control_plane},
    forge::{Forge, line},
    key::Key,
    process::Program,
    rogue::{Channel, Client},
    scratch::Scratch,
    target::Target,
    wait,
};

/// How long a change may take to be in force, and to be felt by clients that are connected.
pub const IN_FORCE: Duration = Duration::from_secs(5);
/// How long a test waits for what is no such promise: a status, an Event, a program's start.
pub const SOON: Duration = Duration::from_secs(30);
/// The bastion's own namespace.
pub const OWN: &str = "bastion";
/// A team's namespace, whose policies the bastion follows.
pub const THEIRS: &str = "databases";
/// One that the bastion does not watch.
pub const ELSEWHERE: &str = "elsewhere";
/// The bastion's ServiceAccount.
const ACCOUNT: &str = "bastion";

/// An API server, and whom its bastions trust.
pub struct Place {
    pub server: ApiServer,
    pub authority: Key,
    pub key: Key,
    scratch: Scratch,
}

/// One that tests share which do not stop it.
pub fn shared() -> &'static Place {
    static SHARED: LazyLock<Place> = LazyLock::new(|| Place::new(Minor::Newest));
    &SHARED
}

impl Place {
    pub fn new(minor: Minor) -> Self {
        let server = ApiServer::with_policies(minor);
        let place =
            Self { server, authority: Key::ed25519(), key: Key::ed25519(), scratch: Scratch::new("place") };
        for namespace in [OWN, THEIRS, ELSEWHERE] {
            place.kubectl(&["create", "namespace", namespace]);
        }
        place.kubectl(&["--namespace", OWN, "create", "serviceaccount", ACCOUNT]);
        place.may();
        place
    }

    /// Grants the bastion what the chart's Roles grant it, and no more.
    fn may(&self) {
        let named = |names: Value| json!({"secrets": names, "config_maps": names});
        let from = |kind: &str| json!({kind: {"name": "user-ca", "key": "ca.pub"}});
        let values = json!({
            "image": {"registry": "localhost"},
            "connectionInfo": {"file": {"bastion": {"address": "bastion.example.com:2222"}}},
            "config": {
                "kubernetes": {"policies": {"namespaces": [THEIRS], "cluster": true}},
                "authorities": [from("secret"), from("config_map")],
                "revocation": named(json!([{"name": "revoked", "key": "list"}])),
            },
        });
        let values = self.scratch.write("values.yaml", values.to_string());
        let text = chart::template(&chart::folder(), &[&values], &["--namespace", OWN]).unwrap();
        let objects = chart::objects(&text);
        let is_grant = |object: &&Value| object["kind"].as_str().is_some_and(|kind| kind.contains("Role"));
        let granted: Vec<_> = objects.iter().filter(is_grant).collect();
        assert_eq!(granted.len(), 8, "{granted:?}");
        for object in granted {
            self.apply(object);
        }
    }

    pub fn kubectl(&self, words: &[&str]) -> String {
        self.server.kubectl().args(words).succeed()
    }

    pub fn apply(&self, object: &Value) {
        control_plane::apply(self.server.kubectl(), &object.to_string());
    }

    /// Tries to apply an object without keeping it: what the API server says to it.
    pub fn try_apply(&self, object: &Value) -> Result<(), String> {
        let words = ["create", "--dry-run=server", "--filename=-"];
        let output = self.server.kubectl().args(words).input(object.to_string()).output();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    pub fn get(&self, words: &[&str]) -> Value {
        control_plane::get(self.server.kubectl(), words)
    }

    /// A token of the bastion's ServiceAccount.
    pub fn token(&self, more: &[&str]) -> String {
        let words = ["--namespace", OWN, "create", "token", ACCOUNT, "--duration=1h"];
        self.kubectl(&[&words, more].concat()).trim().to_owned()
    }

    /// A kubeconfig with these credentials.
    pub fn kubeconfig(&self, user: &Value) -> PathBuf {
        let words = ["config", "view", "--raw", "--minify", "--flatten", "--output=json"];
        let mut config: Value = serde_json::from_str(&self.kubectl(&words)).unwrap();
        config["users"][0]["user"] = user.clone();
        self.scratch.write(&format!("{:08x}.kubeconfig", rand::random::<u32>()), config.to_string())
    }

    /// A bastion as a pod of that name would be one, that follows its own namespace and another, and the
    /// cluster.
    pub fn setup(&self, pod: &str) -> Setup {
        let kubeconfig = self.kubeconfig(&json!({"token": self.token(&[])}));
        Setup::new()
            .trust(&self.authority)
            .set("/kubernetes/policies", json!({"namespaces": [THEIRS], "cluster": true}))
            .set("/open_networks", json!(["own-addresses", "loopback"]))
            .set("/timeouts", json!({"resolve": "5s", "connect": "2s"}))
            .env("KUBECONFIG", kubeconfig.to_str().unwrap())
            .env("POD_NAMESPACE", OWN)
            .env("POD_NAME", pod)
    }

    /// A client with the principal.
    pub fn login(&self, bastion: &tests::bastion::Bastion, principal: &str) -> Client {
        let certificate = Forge::user(&self.key, LOGIN).with(|forge| forge.principals.push(principal.into()));
        Client::login(bastion.address(), LOGIN, &self.key, certificate.sign(&self.authority))
    }

    /// What `explain` says of a client with the principal, given these objects: its exit code and its answer.
    pub fn explain(
        &self,
        bastion: &tests::bastion::Bastion,
        principal: &str,
        to: &str,
        objects: &str,
    ) -> (i32, Value) {
        let scratch = Scratch::new("explain");
        let certificate = Forge::user(&self.key, LOGIN).with(|forge| forge.principals.push(principal.into()));
        let certificate = scratch.write("id-cert.pub", line(&certificate.sign(&self.authority)));
        let objects = scratch.write("objects.yaml", objects);
        let output = Program::ours("bastion-server")
            .arg("explain")
            .arg(bastion.config())
            .args(["--json", "--to", to, "--login", LOGIN, "--namespace", OWN, "--cert"])
            .arg(&certificate)
            .arg("--objects")
            .arg(&objects)
            .output();
        let answer = serde_json::from_slice(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), answer.unwrap_or_else(|_| panic!("no answer: {said}")))
    }

    /// Waits until the bastion has said what became of the present state of a policy, and returns that
    /// condition.
    pub fn verdict(&self, words: &[&str]) -> Value {
        self.condition(words, "Accepted", |_| true)
    }

    /// Waits until it has said this of what the policy names.
    pub fn resolved(&self, words: &[&str], status: &str, message: &str) -> Value {
        self.condition(words, "ResolvedRefs", |condition| {
            condition["status"] == status && condition["message"] == message
        })
    }

    fn condition(&self, words: &[&str], type_: &str, fits: impl Fn(&Value) -> bool) -> Value {
        wait::until(&format!("{type_} in the status of {words:?}"), SOON, || {
            let object = self.get(words);
            let conditions = object["status"]["conditions"].as_array()?;
            let condition = conditions.iter().find(|condition| condition["type"] == type_)?;
            let present = condition["observedGeneration"] == object["metadata"]["generation"];
            (present && fits(condition)).then(|| condition.clone())
        })
    }

    /// The Events about an object.
    pub fn events(&self, namespace: &str, name: &str) -> Vec<Value> {
        let all = self.get(&["events.events.k8s.io", "--namespace", namespace]);
        let about = |event: &&Value| event["regarding"]["name"] == name;
        all["items"].as_array().unwrap().iter().filter(about).cloned().collect()
    }
}

pub fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "tunnel-suite.internal/v1alpha1", "kind": "TunnelPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

/// A policy for every client, about a Service of the same name.
pub fn everybody(name: &str) -> Value {
    policy(THEIRS, name, json!({"who": {"everybody": true}, "to": [{"service": {"name": name}}]}))
}

pub fn cluster_policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "tunnel-suite.internal/v1alpha1", "kind": "ClusterTunnelPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// A Service without pods; its endpoints are written by hand.
pub fn service(namespace: &str, name: &str, ports: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name, "tier": "db"}},
        "spec": {"clusterIP": "None", "ports": ports},
    })
}

/// Endpoints of a Service, as the controller would write them.
pub fn slice(namespace: &str, service: &str, ports: Value, endpoints: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service}},
        "ports": ports, "endpoints": endpoints,
    })
}

/// An address of this machine that an endpoint may have, which none of its loopback ones is.
pub fn here() -> IpAddr {
    let found = nix::ifaddrs::getifaddrs().unwrap().find_map(|interface| {
        let address = interface.address?.as_sockaddr_in()?.ip();
        (!address.is_loopback() && !address.is_link_local()).then_some(IpAddr::V4(address))
    });
    found.expect("this machine has an address of its own beside loopback")
}

/// A target there, which sends back what it gets.
pub fn target() -> Target {
    Target::echo_on(here())
}

/// One endpoint of this machine that takes connections.
pub fn ready() -> Value {
    json!([{"addresses": [here()], "conditions": {"ready": true}}])
}

/// Asks for a forward: the channel, or why not.
pub fn open(client: &mut Client, host: &str, port: u16) -> Result<Channel, String> {
    client.forward(host, port.into()).unwrap().map_err(|failure| failure.text)
}

/// Whether what is said comes back.
pub fn echoes(client: &mut Client, channel: Channel) -> bool {
    client.write(channel, b"x").is_ok() && client.read(channel, 1).is_ok_and(|read| read == b"x")
}

/// Waits until a request for a forward is answered as it should be: a condition of a Service's endpoints has
/// no status to wait for.
pub fn until_open(client: &mut Client, host: &str, port: u16) -> Channel {
    wait::until(&format!("a forward to {host}:{port}"), IN_FORCE, || open(client, host, port).ok())
}

/// Waits until such a request is refused for this reason.
pub fn until_refused(client: &mut Client, host: &str, port: u16, reason: &str) {
    wait::until_true(&format!("no forward to {host}:{port}: {reason}"), IN_FORCE, || {
        open(client, host, port).is_err_and(|text| text.starts_with(&format!("{reason}: ")))
    });
}

/// A program of this workspace, run to its end.
pub fn printed(words: &[&str]) -> String {
    Program::ours("bastion-server").args(words).succeed()
}
