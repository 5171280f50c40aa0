//! Credentials of the bastion at the API server: it follows a token that is replaced while it runs, and takes
//! no proxy on the way there.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use serde_json::json;
use tests::{authority::DevAuthority, cluster::Minor, scratch::Scratch, wait};

use super::fixture::{
    OWN, Place, THEIRS, echoes, everybody, open, policy, ready, service, shared, slice, target, until_open,
};

/// The client reads its token again within a minute, and a watch may then wait a moment.
const TOKEN_IS_READ: Duration = Duration::from_secs(75);
const HOST: &str = "orders.databases.svc";

/// A projected volume with a token, as a kubelet keeps it: what is replaced is the folder that a link leads
/// to.
struct Projected(Scratch);

impl Projected {
    fn token(&self) -> PathBuf {
        self.0.join("token")
    }

    fn put(&self, token: &str) {
        let (data, next) = (self.0.join("..data"), self.0.join("..data_tmp"));
        let old = fs::read_link(&data).ok();
        let version = format!("..{:08x}", rand::random::<u32>());
        fs::create_dir(self.0.join(&version)).unwrap();
        fs::write(self.0.join(&version).join("token"), token).unwrap();
        symlink(version, &next).unwrap();
        fs::rename(next, data).unwrap();
        match old {
            Some(old) => fs::remove_dir_all(self.0.join(old.to_str().unwrap())).unwrap(),
            None => symlink("..data/token", self.token()).unwrap(),
        }
    }
}

#[test]
fn a_token_that_is_replaced_is_read_again_behind_the_fence() {
    let mut place = Place::new(Minor::Newest);
    let target = target();
    place.apply(&service(THEIRS, "orders", json!([{"port": 5432}])));
    place.apply(&slice(THEIRS, "orders", json!([{"port": target.port()}]), ready()));
    place.apply(&everybody("orders"));
    // Each token is good for as long as a Secret is there.
    let token = |secret: &str| {
        place.kubectl(&["--namespace", OWN, "create", "secret", "generic", secret]);
        place.token(&["--bound-object-kind=Secret", &format!("--bound-object-name={secret}")])
    };
    let (first, second) = (token("first"), token("second"));
    let projected = Projected(Scratch::new("projected"));
    projected.put(&first);
    let kubeconfig = place.kubeconfig(&json!({"tokenFile": projected.token()}));
    let bastion = place
        .setup("rotated")
        .set("/fence", json!("required"))
        .env("KUBECONFIG", kubeconfig.to_str().unwrap())
        .start();
    let mut client = place.login(&bastion, "anyone");
    let channel = until_open(&mut client, HOST, 5432);

    // The kubelet replaces a token while the old one is still good. Here the old one is worthless first,
    // which is the worst that can be.
    place.kubectl(&["--namespace", OWN, "delete", "secret", "first"]);
    place.server.stop();
    place.server.start();
    let refused = |line: &str| line.contains("\"code\":401") && line.contains("tunnelpolicies");
    wait::until_true("the old token is refused", TOKEN_IS_READ, || place.server.audit().lines().any(refused));
    assert!(echoes(&mut client, channel) && open(&mut client, HOST, 5432).is_ok(), "clients do not notice");
    assert_eq!(bastion.page("/readyz").status, 200);

    projected.put(&second);
    place.kubectl(&["--namespace", THEIRS, "delete", "tunnelpolicy", "orders"]);
    wait::until_true("what the new token shows", TOKEN_IS_READ, || {
        open(&mut client, HOST, 5432).is_err_and(|text| text.starts_with("no_rule: "))
    });
    assert!(!echoes(&mut client, channel));
    place.apply(&everybody("orders"));
    until_open(&mut client, HOST, 5432);
    assert_eq!(place.verdict(&["tunnelpolicy/orders", "--namespace", THEIRS])["status"], "True");
}

#[test]
fn a_proxy_of_the_environment_is_for_vault_and_not_for_the_api_server() {
    let place = shared();
    // It answers whatever it is asked for, as a proxy would that knows the way; it knows none to an API
    // server.
    let vault = DevAuthority::start();
    let bastion = place
        .setup("proxied")
        .set("/authorities", json!([{"vault": {"mount": "ssh"}}]))
        .set(
            "/vault",
            json!({"address": "http://vault.example.invalid:8200", "dangerously_allow_plain_http": true}),
        )
        .env("HTTP_PROXY", vault.url())
        .env("HTTPS_PROXY", vault.url())
        .start();
    assert!(bastion.page("/metrics").body.contains("bastion_ca_keys 1\n"));
    place.apply(&policy(
        OWN,
        "proxied",
        json!({"who": {"everybody": true}, "to": [{"host": "a.example", "ports": [1]}]}),
    ));
    assert_eq!(place.verdict(&["tunnelpolicy/proxied", "--namespace", OWN])["status"], "True");
}
