//! Names lead where the system's own resolver leads: glibc's `getaddrinfo` is asked the same, under the same
//! settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use bastion_server::{Host, Resolver, ResolverSettings as Settings};
use tests::{
    bastion::{self, LOGIN},
    dns::{Answer, NameServer},
    forge::Forge,
    key::Key,
    private::{inside, put},
    process::{Program, installed},
    rogue::Client,
    scratch::Scratch,
    target::Target,
    wait,
};

const GETADDRINFO: &str = "
import json, socket, sys
def ask(name):
    try:
        return sorted({entry[4][0] for entry in socket.getaddrinfo(name, 80, proto=socket.IPPROTO_TCP)})
    except OSError:
        return []
print(json.dumps({name: ask(name) for name in sys.argv[1:]}))
";

const NAMES: [&str; 17] = [
    "db.example.com",
    "db.example.com.",
    "DB.Example.com",
    "db",
    "db.",
    "only",
    "only.here",
    "only.here.",
    "nowhere.example.com",
    "nowhere.example.com.",
    "filed",
    "filed.",
    "filed.example.com",
    "failing",
    "empty",
    "deep.er.than.five.dots.example.com",
    "a.b.c.d.example.com",
];

const HOSTS: &str =
    "127.0.0.1 localhost\n10.0.0.30 filed FILED.example.com\n10.0.0.31 filed\nfd00::30 filed.example.com\n";

/// A cluster's name server: a wildcard that an operator put below a domain of the search list answers for
/// everything.
fn first(name: &str) -> Answer {
    match name {
        "db.example.com" => Answer::at(&["10.0.0.1", "fd00::1"]),
        "db.local.test" => Answer::at(&["10.0.0.2"]),
        "only.here" => Answer::at(&["10.0.0.3"]),
        "only.second.test" => Answer::at(&["10.0.0.4"]),
        "failing.local.test" | "failing.second.test" => Answer::Failure,
        "failing" => Answer::at(&["10.0.0.5"]),
        "empty.local.test" => Answer::Addresses(vec![]),
        "empty.second.test" => Answer::at(&["10.0.0.6"]),
        "deep.er.than.five.dots.example.com" => Answer::at(&["10.0.0.7"]),
        "a.b.c.d.example.com" => Answer::at(&["10.0.0.8"]),
        name if name.ends_with(".wild.test") => Answer::at(&["10.66.66.66"]),
        _ => Answer::Nothing,
    }
}

const SERVER: &str = "nameserver 127.0.0.1\n";

#[test]
fn names_lead_where_getaddrinfo_leads() {
    inside("names::names_lead_where_getaddrinfo_leads", || {
        let scratch = Scratch::new("names");
        let resolv_conf = scratch.write("resolv.conf", SERVER);
        put(&resolv_conf, "/etc/resolv.conf");
        put(&scratch.write("hosts", HOSTS), "/etc/hosts");
        put(&scratch.write("nsswitch.conf", "hosts: files dns\n"), "/etc/nsswitch.conf");
        let _first = NameServer::start_at("127.0.0.1:53".parse().unwrap(), first);
        let _second = NameServer::start_at("127.0.0.2:53".parse().unwrap(), |name| match name {
            "db.example.com" => Answer::at(&["10.99.99.99"]),
            _ => Answer::Nothing,
        });
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (mut compared, mut differ) = (0, Vec::new());
            for text in settings() {
                std::fs::write(Path::new("/etc/resolv.conf"), &text).unwrap();
                let (resolver, theirs) = (resolver(), getaddrinfo());
                for (name, expected) in theirs {
                    let found = ours(&resolver, &name).await;
                    compared += 1;
                    if found != expected {
                        differ.push(format!(
                            "{name}: {found:?}, and getaddrinfo says {expected:?}, with\n{text}"
                        ));
                    }
                }
            }
            println!("{compared} answers compared");
            assert!(differ.is_empty(), "{}", differ.join("\n"));
        });
    });
}

/// Files of the system that change while it serves.
#[test]
fn the_systems_settings_for_names_are_followed() {
    inside("names::the_systems_settings_for_names_are_followed", || {
        let scratch = Scratch::new("names");
        put(&scratch.write("resolv.conf", SERVER), "/etc/resolv.conf");
        put(&scratch.write("hosts", HOSTS), "/etc/hosts");
        let _first = NameServer::start_at("127.0.0.1:53".parse().unwrap(), first);
        let _second = NameServer::start_at("127.0.0.2:53".parse().unwrap(), |_| Answer::at(&["10.0.0.99"]));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let resolver = runtime.block_on(async { resolver() });
        let leads_to = |name: &str, address: &str| {
            let expected = BTreeSet::from([address.parse().unwrap()]);
            wait::until_true(&format!("{name} is at {address}"), Duration::from_secs(20), || {
                runtime.block_on(ours(&resolver, name)) == expected
            });
        };
        leads_to("only.here", "10.0.0.3");
        std::fs::write("/etc/resolv.conf", "nameserver 127.0.0.2\n").unwrap();
        leads_to("only.here", "10.0.0.99");
        std::fs::write("/etc/hosts", "10.0.0.77 only.here\n").unwrap();
        leads_to("only.here", "10.0.0.77");
        // A file that names no server makes no sense, and changes nothing.
        std::fs::write("/etc/resolv.conf", "search nowhere.test\n").unwrap();
        std::fs::write("/etc/hosts", "\n").unwrap();
        leads_to("something.else", "10.0.0.99");
        std::fs::write("/etc/resolv.conf", SERVER).unwrap();
        leads_to("only.here", "10.0.0.3");
    });
}

/// A rule and a client that both mean the complete name, where an operator put a wildcard below a domain of
/// the search list.
#[test]
fn a_final_dot_leads_a_client_to_the_complete_name() {
    inside("names::a_final_dot_leads_a_client_to_the_complete_name", || {
        let scratch = Scratch::new("names");
        let text = format!("{SERVER}search wild.test\noptions ndots:5\n");
        put(&scratch.write("resolv.conf", text), "/etc/resolv.conf");
        let _names = NameServer::start_at("127.0.0.1:53".parse().unwrap(), |name| match name {
            "db.example.com" => Answer::at(&["127.0.0.1"]),
            name if name.ends_with(".wild.test") => Answer::at(&["127.66.66.66"]),
            _ => Answer::Nothing,
        });
        let target = Target::echo_at("0.0.0.0:0".parse().unwrap());
        let port = target.address().port();
        let (authority, key) = (Key::ed25519(), Key::ed25519());
        let bastion = bastion::Setup::new()
            .trust(&authority)
            .rule(LOGIN, &[&format!("db.example.com.:{port}"), &format!("wide.example.com:{port}")])
            .start();
        let certificate = Forge::user(&key, LOGIN).sign(&authority);
        let mut client = Client::login(bastion.address(), LOGIN, &key, certificate);
        for (host, expected) in [
            ("db.example.com.", "127.0.0.1"),
            ("db.example.com", "127.0.0.1"),
            ("wide.example.com", "127.66.66.66"),
        ] {
            let _channel = client.forward(host, port.into()).unwrap().expect(host);
            let opened = |record: &serde_json::Value| {
                record["event"] == "forward_opened" && record["destination_host"] == host
            };
            assert_eq!(bastion.audited("where it led", opened)["destination_address"], expected, "{host}");
        }
        let failure = client.forward("wide.example.com.", port.into()).unwrap().expect_err("there is none");
        assert!(failure.text.starts_with("unresolved"), "{}", failure.text);
    });
}

/// What each name leads to; nothing, if it leads nowhere.
type Found = BTreeMap<String, BTreeSet<IpAddr>>;

fn settings() -> Vec<String> {
    let mut settings: Vec<String> = [
        "",
        "search wild.test\noptions ndots:5\n",
        "search wild.test\n",
        "search local.test second.test\n",
        "search local.test second.test wild.test\noptions ndots:5\n",
        "search wild.test\nsearch local.test\n",
        "search wild.test\ndomain local.test\n",
        "domain wild.test\nsearch local.test\noptions ndots:2\n",
        "search wild.test.\noptions ndots:0\n",
        "search wild.test\noptions ndots:99\n",
        "# a comment\nsearch local.test ; and another\noptions rotate ndots:3\n",
    ]
    .iter()
    .map(|more| format!("{SERVER}{more}"))
    .collect();
    // Each server has its turn, and its no is a no.
    settings.push("nameserver 127.0.0.1\nnameserver 127.0.0.2\nsearch local.test\n".to_owned());
    settings.push("nameserver 127.0.0.2\nnameserver 127.0.0.1\nsearch local.test\n".to_owned());
    // No server answers at the first.
    settings.push("nameserver 127.0.0.3\nnameserver 127.0.0.1\nsearch local.test\n".to_owned());
    settings
}

fn getaddrinfo() -> Found {
    let said = Program::new(installed("python3")).args(["-c", GETADDRINFO]).args(NAMES).succeed();
    serde_json::from_str(&said).unwrap()
}

fn resolver() -> Resolver {
    Resolver::new(Settings { patience: Duration::from_secs(10), ..Settings::default() }).unwrap()
}

async fn ours(resolver: &Resolver, name: &str) -> BTreeSet<IpAddr> {
    let host = Host::parse(name).unwrap();
    resolver.addresses(&host).await.map(|found| found.into_iter().collect()).unwrap_or_default()
}
