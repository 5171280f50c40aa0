//! The bastion's connection info: published in a ConfigMap, read by `pf-tunnel` with a kubeconfig, and closed
//! to other accounts.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    bastion,
    cluster::{ApiServer, Minor},
    key::Key,
    openbao::OpenBao,
    ports,
    process::Program,
    scratch::Scratch,
    target::{Target, exchange},
    tunnel, wait,
};

const SOON: Duration = Duration::from_secs(30);

/// One for all of this file: each test publishes in a namespace of its own.
static SERVER: LazyLock<ApiServer> = LazyLock::new(|| ApiServer::alone(Minor::Newest));

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

#[test]
fn each_value_says_that_the_cluster_published_it_and_loses_against_every_other() {
    let space = Space::new("layers");
    let published = "bastion: {address: bastion.example.com, user: published}\n\
                     vault: {address: 'https://published', mount: published, role: published, ca_cert: /etc/passwd}\n\
                     databases: {orders: {kind: postgres, host: orders.svc, port: 5432, database: o, roles: {reader: p}}}\n";
    space.publish(&[("pf-tunnel.yaml", published), ("known_hosts", &known_hosts())]);
    space.scratch.write("pf-tunnel.yaml", "vault: {mount: project}\n");
    let kubeconfig = space.readers();
    let settings = space.settings(&kubeconfig, &["--kube-context", "prod", "--role", "flag"]);
    let origin = "ConfigMap layers/bastion-connection-info of context prod";
    for (name, value, source) in [
        ("bastion.address", "bastion.example.com:22", origin),
        ("bastion.user", "published", origin),
        ("vault.address", "https://published", origin),
        ("databases.orders", "orders.svc:5432 (roles: reader)", origin),
        ("vault.role", "flag", "--role"),
        ("vault.ttl", "1h", "default"),
        ("kube.context", "prod", "--kube-context"),
        ("kube.namespace", "layers", "--kube-namespace"),
    ] {
        assert_eq!(settings[name], (json!(value), source.to_owned()), "{name}");
    }
    assert_eq!(settings["vault.mount"].0, "project");
    assert_eq!(
        settings["vault.ca_cert"],
        (Value::Null, String::new()),
        "no file of this computer is named from there"
    );
    assert_eq!(settings["bastion.host_authority"].1, origin);

    // The same by the file alone, in the kubeconfig's current context; and the other program.
    space.scratch.write("pf-tunnel.yaml", "kube: {namespace: layers}\n");
    let settings = space.settings(&kubeconfig, &[]);
    assert_eq!(settings["kube.context"], (json!("prod"), "current context of the kubeconfig".to_owned()));
    assert_eq!(settings["vault.mount"], (json!("published"), origin.to_owned()));
    let list = Program::ours("pf-db-tunnel")
        .folder(space.scratch.path())
        .env("KUBECONFIG", &kubeconfig)
        .arg("--list");
    let list = list.env("XDG_CACHE_HOME", "/dev/null/none");
    assert!(list.succeed().contains("orders"));
    let loud = space.pf_tunnel(&kubeconfig, &["config", "-v"]).succeed();
    assert!(loud.contains("`vault.ca_cert` is not taken from there"), "{loud}");
}

#[test]
fn every_way_to_log_in_that_kubectl_has_works() {
    let space = Space::new("logins");
    space.publish(&[("pf-tunnel.yaml", "bastion: {address: bastion.example.com}\n")]);
    let file = space.scratch.write("readers-token", &space.token);
    let count = space.scratch.join("count");
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": space.token, "expirationTimestamp": "2099-01-01T00:00:00Z"},
    });
    let script = format!(
        "echo run >> {count}; echo asking >&2; [ \"$WHO\" = me ] && [ \"$1\" = get-token ] || exit 7\n\
         case $KUBERNETES_EXEC_INFO in *'\"interactive\":false'*) ;; *) exit 8;; esac\ncat <<'EOF'\n{credential}\nEOF\n",
        count = count.display(),
    );
    let script = space.scratch.write("plugin.sh", script);
    let plugin = |argument: &str| {
        json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "interactiveMode": "IfAvailable",
            "args": [script, argument], "env": [{"name": "WHO", "value": "me"}],
        }})
    };
    for (name, user) in [
        ("token", json!({"token": space.token})),
        ("file", json!({"tokenFile": file})),
        ("plugin", plugin("get-token")),
    ] {
        let settings = space.settings(&space.kubeconfig(name, &user), &["--kube-context", "prod"]);
        assert_eq!(settings["bastion.address"].0, "bastion.example.com:22", "{name}");
    }
    assert_eq!(
        std::fs::read_to_string(&count).unwrap(),
        "run\n",
        "a plugin that asks a person must not ask twice"
    );
    // The administrator's has a client certificate.
    let settings = space.settings(SERVER.kubeconfig(), &["--kube-context", tests::cluster::pki::CONTEXT]);
    assert_eq!(settings["bastion.address"].0, "bastion.example.com:22");
    let both = std::env::join_paths([&space.scratch.join("none"), &space.readers()]).unwrap();
    let settings = space.settings(Path::new(&both), &["--kube-context", "prod"]);
    assert_eq!(
        settings["bastion.address"].0, "bastion.example.com:22",
        "a file of KUBECONFIG may be missing"
    );

    let certificate: Value =
        serde_json::from_str(&kubectl(&["config", "view", "--raw", "--flatten", "--output", "json"]))
            .unwrap();
    let user = &certificate["users"][0]["user"];
    let pem = |key: &str| {
        let program = Program::new("/usr/bin/base64").arg("-d").input(user[key].as_str().unwrap());
        program.succeed()
    };
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"clientCertificateData": pem("client-certificate-data"), "clientKeyData": pem("client-key-data")},
    });
    let printed = space.scratch.write("certificate.json", credential.to_string());
    let cat = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "cat", "args": [printed]}});
    let settings = space.settings(&space.kubeconfig("certificate", &cat), &["--kube-context", "prod"]);
    assert_eq!(settings["bastion.address"].0, "bastion.example.com:22");

    for (name, user, words) in [
        ("exit", plugin("other"), "`sh` gave no credentials for Kubernetes: exit status: 7"),
        (
            "none",
            json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "none-such", "installHint": "Install it."}}),
            "Install it.",
        ),
        (
            "silent",
            json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "true"}}),
            "`true` printed no credentials",
        ),
        (
            "person",
            json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "true", "interactiveMode": "Always"}}),
            "no terminal",
        ),
        ("stranger", json!({"token": "canary"}), "does not know you"),
    ] {
        let told = space.failure(&space.kubeconfig(name, &user), &["--kube-context", "prod"]);
        assert!(told.contains(words) && !told.contains("canary"), "{name}: {told}");
    }
}

#[test]
fn whatever_is_in_the_way_is_named_with_what_to_do() {
    let space = Space::new("failures");
    let readers = space.readers();
    let prod = ["--kube-context", "prod"];
    let told = space.failure(&readers, &prod);
    assert!(
        told.contains("there is no ConfigMap failures/bastion-connection-info in context prod"),
        "{told}"
    );

    space.publish(&[("pf-tunnel.yaml", "bastion:\n  address: a b\n")]);
    let told = space.failure(&readers, &prod);
    let place = "ConfigMap failures/bastion-connection-info of context prod, pf-tunnel.yaml:2:12";
    assert!(told.contains(place), "{told}");
    space
        .publish(&[("pf-tunnel.yaml", "bastion: {address: b}\n"), ("known_hosts", "\nb ssh-ed25519 AAAA\n")]);
    let told = space.failure(&readers, &prod);
    assert!(told.contains("known_hosts:2:1: this is not a public key"), "{told}");
    space.publish(&[("other", "x")]);
    assert!(space.failure(&readers, &prod).contains("has no pf-tunnel.yaml in it"));
    let long = "#".repeat(300 * 1024);
    space.publish(&[("pf-tunnel.yaml", &long)]);
    assert!(space.failure(&readers, &prod).contains("too long"));

    space.publish(&[("pf-tunnel.yaml", "vault: {address: 'https://vault'}\n")]);
    let ends = |words: &[&str]| {
        let words =
            [&["--kube-context", "prod", "--kube-namespace", "failures", "db:1", "0"], words].concat();
        let output = space.pf_tunnel(&readers, &words).output();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let told = ends(&[]);
    assert!(told.contains("publishes no address") && told.contains("service.hostnames"), "{told}");
    let told = ends(&["--bastion", "bastion.example.com"]);
    assert!(told.contains("does not say how bastion.example.com:22 proves who it is"), "{told}");

    let stranger = space.kubeconfig("stranger", &json!({"token": token_of("failures", "stranger")}));
    let told = space.failure(&stranger, &prod);
    assert!(told.contains("you may not read ConfigMap failures/bastion-connection-info"), "{told}");
    assert!(
        told.contains("connectionInfo.readers") && told.contains("system:serviceaccount:failures:stranger"),
        "{told}"
    );
    let told = space.failure(&readers, &["--kube-context", "prod", "--kube-config-map", "other"]);
    assert!(told.contains("you may not read ConfigMap failures/other"), "{told}");

    assert!(space.failure(&readers, &["--kube-context", "prd"]).contains("Did you mean `prod`?"));
    assert!(space.failure(&readers, &["--kube-context", "elsewhere"]).contains("It has prod"));
    let none = space.scratch.join("none-such");
    assert!(space.failure(&none, &prod).contains("there is no kubeconfig: "));
    let broken = space.scratch.write("broken", "users: [{name: canary");
    let told = space.failure(&broken, &prod);
    assert!(told.contains("it is not a kubeconfig") && !told.contains("canary"), "{told}");

    let pointed = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut config: Value = serde_json::from_slice(&std::fs::read(&readers).unwrap()).unwrap();
        change(&mut config["clusters"][0]["cluster"]);
        space.scratch.write(name, config.to_string())
    };
    let closed = format!("https://127.0.0.1:{}", ports::free());
    let told = space.failure(&pointed("gone", &|cluster| cluster["server"] = json!(closed)), &prod);
    assert!(
        told.contains("the API server of context prod is not reached: ") && told.contains("refused"),
        "{told}"
    );
    let told = space.failure(
        &pointed("other-authority", &|cluster| {
            _ = cluster.as_object_mut().unwrap().remove("certificate-authority-data")
        }),
        &prod,
    );
    assert!(told.contains("is not reached: ") && told.contains("certificate"), "{told}");
    let told = space.failure(
        &pointed("insecure", &|cluster| {
            *cluster = json!({"server": cluster["server"], "insecure-skip-tls-verify": true})
        }),
        &prod,
    );
    assert!(told.contains("does not verify the API server"), "{told}");
    let told =
        space.failure(&pointed("plain", &|cluster| cluster["server"] = json!("http://192.0.2.1")), &prod);
    assert!(told.contains("does not reach the API server through TLS"), "{told}");
}

/// The way to the API server: a test that drops it leaves the VPN.
fn relay(place: SocketAddr, server: SocketAddr) -> Target {
    Target::on(place, move |client| {
        let server = TcpStream::connect(server).ok()?;
        let (mut up, mut down) = ((client.try_clone().ok()?, server.try_clone().ok()?), (server, client));
        std::thread::spawn(move || std::io::copy(&mut up.0, &mut up.1));
        let _ = std::io::copy(&mut down.0, &mut down.1);
        None
    })
}

/// A laptop outside the VPN, and one whose owner may no longer look.
#[test]
fn what_was_read_is_remembered_while_no_server_answers() {
    let space = Space::new("memory");
    space.publish(&[
        ("pf-tunnel.yaml", "bastion: {address: bastion.example.com}\n"),
        ("known_hosts", &known_hosts()),
    ]);
    let (place, readers) = (SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free())), space.readers());
    let mut config: Value = serde_json::from_slice(&std::fs::read(&readers).unwrap()).unwrap();
    let server = config["clusters"][0]["cluster"]["server"]
        .as_str()
        .unwrap()
        .strip_prefix("https://")
        .unwrap()
        .parse()
        .unwrap();
    config["clusters"][0]["cluster"]["server"] = json!(format!("https://{place}"));
    let kubeconfig = space.scratch.write("relayed", config.to_string());
    let words = ["config", "--kube-namespace", "memory"];
    let run =
        || space.pf_tunnel(&kubeconfig, &words).env("XDG_CACHE_HOME", space.scratch.join("cache")).output();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();

    let told = text(run().stderr);
    assert!(told.contains("is not reached"), "{told}");
    let way = relay(place, server);
    assert!(text(run().stdout).contains("bastion.example.com:22"));
    drop(way);
    let output = run();
    let (out, told) = (text(output.stdout), text(output.stderr));
    // As long ago as two programs take to start.
    let said = "ConfigMap memory/bastion-connection-info of context prod, as it was ";
    let (_, ago) = out.split_once(said).unwrap_or_else(|| panic!("{out}"));
    let (seconds, _) = ago.split_once(" s ago").unwrap_or_else(|| panic!("{out}"));
    assert!(seconds.parse::<u64>().unwrap() < 60, "{out}");
    assert!(told.contains("warning: the API server of context prod is not reached: "), "{told}");

    kubectl(&["delete", "rolebinding", "bastion-connection-info", "--namespace", "memory"]);
    let _way = relay(place, server);
    // The API server itself hears of it a moment later.
    let output = wait::until("a no, which is believed", SOON, || {
        let output = run();
        (output.status.code() == Some(2)).then_some(output)
    });
    assert!(text(output.stderr).contains("you may not read"));
}

/// From a kubeconfig alone to bytes that flow.
#[test]
fn a_laptop_needs_no_file_at_all() {
    let space = Space::new("laptop");
    let bao = OpenBao::start();
    let report = bao.bootstrap("127.0.0.1", &[]);
    let (hosts, echo) = (Key::ed25519(), Target::echo());
    let to = format!("127.0.0.1:{}", echo.port());
    let bastion = bastion::Setup::new()
        .trust_line(report["user_authority"].as_str().unwrap())
        .certify(&hosts, "127.0.0.1")
        .rule("tunnel", &[&to])
        .start();
    let published =
        format!("bastion: {{address: '{}'}}\nvault: {{address: '{}'}}\n", bastion.address(), bao.url());
    let authority =
        format!("@cert-authority [127.0.0.1]:{} {}\n", bastion.address().port(), hosts.public_line().trim());
    space.publish(&[("pf-tunnel.yaml", &published), ("known_hosts", &authority)]);

    let words = ["--json", "--kube-context", "prod", "--kube-namespace", "laptop", &to, "0"];
    let token = bao.token(&["tunnel-user"], "5m");
    let process = space.pf_tunnel(&space.readers(), &words).env("VAULT_TOKEN", &token).start();
    let mut tunnel = tunnel::Tunnel { process };
    let local = tunnel.ready(1)[0];
    assert_eq!(exchange(local, b"through").unwrap(), b"through");

    // Another bastion at that address is not this one.
    let other = format!("@cert-authority * {KEY}\n");
    space.publish(&[("pf-tunnel.yaml", &published), ("known_hosts", &other)]);
    let mut process = space.pf_tunnel(&space.readers(), &words).env("VAULT_TOKEN", &token).start();
    assert_eq!(process.code(SOON), 6, "{}", process.stderr());
}

/// A namespace, and the words of a user's kubeconfig.
struct Space {
    name: &'static str,
    scratch: Scratch,
    token: String,
}

impl Space {
    /// A new namespace with the ServiceAccounts `reader`, who may read the one ConfigMap, and `stranger`.
    fn new(name: &'static str) -> Self {
        apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        for account in ["reader", "stranger"] {
            kubectl(&["create", "serviceaccount", account, "--namespace", name]);
        }
        let metadata = json!({"name": "bastion-connection-info", "namespace": name});
        apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
                "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["bastion-connection-info"], "verbs": ["get"]}],
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "bastion-connection-info"},
                "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": name}],
            },
        ]}));
        let token = token_of(name, "reader");
        Self { name, scratch: Scratch::new(name), token }
    }

    /// Publishes these keys, and no others.
    fn publish(&self, data: &[(&str, &str)]) {
        apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "bastion-connection-info", "namespace": self.name},
            "data": data.iter().copied().collect::<BTreeMap<_, _>>(),
        }));
    }

    /// A kubeconfig with one context `prod` for a user who is this.
    fn kubeconfig(&self, name: &str, user: &Value) -> PathBuf {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "prod",
            "clusters": [{"name": "c", "cluster": cluster()}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u"}}],
        });
        self.scratch.write(name, config.to_string())
    }

    /// The reader's, with a token in it.
    fn readers(&self) -> PathBuf {
        self.kubeconfig("reader", &json!({"token": self.token}))
    }

    /// `pf-tunnel` in an empty folder, with nothing but this kubeconfig, and nowhere to remember anything.
    fn pf_tunnel(&self, kubeconfig: &Path, words: &[&str]) -> Program {
        let program = Program::ours("pf-tunnel").folder(self.scratch.path()).args(words);
        program.env("KUBECONFIG", kubeconfig).env("XDG_CACHE_HOME", "/dev/null/none")
    }

    /// `pf-tunnel config --json`: each setting, its value and where it came from.
    fn settings(&self, kubeconfig: &Path, words: &[&str]) -> BTreeMap<String, (Value, String)> {
        let words = [&["config", "--json", "--kube-namespace", self.name], words].concat();
        let rows = self.pf_tunnel(kubeconfig, &words).succeed();
        rows.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|row| row["setting"].is_string())
            .map(|row| {
                let text = |key: &str| row[key].as_str().unwrap().to_owned();
                (text("setting"), (row["value"].clone(), text("source")))
            })
            .collect()
    }

    /// What `pf-tunnel config` says when it fails, as it must.
    fn failure(&self, kubeconfig: &Path, words: &[&str]) -> String {
        let words = [&["config", "--kube-namespace", self.name], words].concat();
        let output = self.pf_tunnel(kubeconfig, &words).output();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(!told.contains(&self.token), "{told}");
        told
    }
}

fn kubectl(words: &[&str]) -> String {
    SERVER.kubectl().args(words).succeed()
}

fn apply(object: &Value) {
    SERVER.kubectl().args(["apply", "--server-side", "--filename", "-"]).input(object.to_string()).succeed();
}

fn token_of(namespace: &str, account: &str) -> String {
    kubectl(&["create", "token", account, "--namespace", namespace]).trim().to_owned()
}

/// Where the API server is, and whom it is signed by, as a kubeconfig has it.
fn cluster() -> Value {
    let config = kubectl(&["config", "view", "--raw", "--flatten", "--output", "json"]);
    serde_json::from_str::<Value>(&config).unwrap()["clusters"][0]["cluster"].clone()
}

fn known_hosts() -> String {
    format!("@cert-authority bastion.example.com {KEY}\n")
}
