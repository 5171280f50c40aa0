//! Backends outside of the cluster, by name and by address, asked by their own name.

use serde_json::{Value, json};

use super::fixture::{APIS, Api, OUTSIDE, shared};

#[test]
fn a_backend_outside_is_asked_by_its_own_name() {
    let fixture = shared();
    let secret = fixture.secret.address();
    fixture.web.kubectl(&[
        "create",
        "secret",
        "generic",
        "outside-ca",
        &format!("--from-literal=ca.crt={}", fixture.authority),
    ]);
    let other = rcgen::generate_simple_self_signed(vec![OUTSIDE.to_owned()]).unwrap().cert.pem();
    fixture.web.kubectl(&[
        "create",
        "secret",
        "generic",
        "other-ca",
        &format!("--from-literal=ca.crt={other}"),
    ]);
    let by_name = json!({"name": "legacy", "host": OUTSIDE, "port": secret.port(), "scheme": "https"});
    let by_address = json!({"name": "legacy", "addresses": [secret.ip()], "port": secret.port(), "scheme": "https", "serverName": OUTSIDE});
    let verified = |backend: &Value, secret: &str| {
        let mut backend = backend.clone();
        backend["verify"] = json!({"caSecret": secret});
        backend
    };
    // Gateway routes know no names, and always verify.
    let table: &[(&str, Api, Value, u16)] = &[
        ("name", Api::Ingress, by_name.clone(), 200),
        ("name-verified", Api::Ingress, verified(&by_name, "outside-ca"), 200),
        ("name-other", Api::Ingress, verified(&by_name, "other-ca"), 500),
        ("address", Api::Ingress, by_address.clone(), 200),
        ("address-verified", Api::Ingress, verified(&by_address, "outside-ca"), 200),
        ("address-other", Api::Ingress, verified(&by_address, "other-ca"), 500),
        ("address-verified", Api::Gateway, verified(&by_address, "outside-ca"), 200),
        ("address-other", Api::Gateway, verified(&by_address, "other-ca"), 500),
    ];
    for (name, api, backend, status) in table {
        let values = json!({"externalBackends": [backend], "paths": [{"path": "/legacy", "backend": "legacy", "stripPrefix": true}]});
        let host = fixture.serve(*api, &format!("to-{name}"), values);
        let answer = fixture.until_plain(&host, "/legacy/a?b=c", *status);
        if *status == 200 {
            let seen = answer.seen();
            assert_eq!((seen.server.as_str(), seen.path.as_str()), ("outside", "/a?b=c"), "{name}, {api:?}");
            assert_eq!(
                (seen.host.as_str(), seen.sni.as_deref()),
                (OUTSIDE, Some(OUTSIDE)),
                "{name}, {api:?}"
            );
        }
    }
}

#[test]
fn a_backend_outside_is_asked_by_plain_http() {
    let fixture = shared();
    let plain = fixture.plain.address();
    let by_name = json!({"name": "legacy", "host": "first.outside.test", "port": plain.port()});
    let by_address = json!({"name": "legacy", "addresses": [plain.ip()], "port": plain.port()});
    let paths = json!([{"path": "/", "backend": "legacy"}]);
    let host =
        fixture.serve(Api::Ingress, "plain-name", json!({"externalBackends": [by_name], "paths": paths}));
    let seen = fixture.until_plain(&host, "/", 200).seen();
    assert_eq!((seen.server.as_str(), seen.host.as_str(), seen.sni), ("outside", "first.outside.test", None));
    // An address has no name: the client's is passed on.
    for api in APIS {
        let host =
            fixture.serve(api, "plain-address", json!({"externalBackends": [by_address], "paths": paths}));
        let seen = fixture.until_plain(&host, "/", 200).seen();
        assert_eq!((seen.server.as_str(), seen.host.as_str()), ("outside", host.as_str()), "{api:?}");
    }
}
