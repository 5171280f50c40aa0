//! Balancing: which pod answers a request, and which protocol the controller speaks to it.

use std::collections::BTreeSet;

use serde_json::json;

use super::fixture::{APIS, Api, HTTP, shared};

#[test]
fn a_client_stays_with_its_pod() {
    let fixture = shared();
    let values = json!({
        "sticky": {"enabled": true, "cookie": "route", "maxAge": "1h"}, "tls": {"mode": "default"},
        "paths": [{"path": "/", "service": "shop", "port": HTTP}],
    });
    let host = fixture.serve(Api::Ingress, "sticky", values);
    let ask = fixture.https(&host, "/");
    fixture.until(&ask, 200);
    let answers: Vec<_> = (0..20).map(|_| ask.send().unwrap()).collect();
    let pods: BTreeSet<_> = answers.iter().map(|answer| answer.seen().server).collect();
    assert_eq!(pods.len(), 3, "{pods:?}");
    let cookie = answers[0].header("set-cookie").unwrap();
    let (value, attributes) = cookie.split_once("; ").unwrap();
    assert!(value.starts_with("route="), "{cookie}");
    let attributes: BTreeSet<_> = attributes.split("; ").collect();
    assert_eq!(attributes, BTreeSet::from(["HttpOnly", "Max-Age=3600", "Path=/", "SameSite=Lax", "Secure"]));
    let again = ask.header("Cookie", value);
    for _ in 0..20 {
        assert_eq!(again.send().unwrap().seen().server, answers[0].seen().server);
    }
}

#[test]
fn a_service_is_spoken_to_in_its_protocol() {
    let fixture = shared();
    let to = |protocol: &str, port: &str| json!({"protocol": protocol, "tls": {"mode": "default"}, "paths": [{"path": "/", "service": "blog", "port": port}]});
    let host = fixture.serve(Api::Ingress, "https", to("HTTPS", "https"));
    let seen = fixture.until(&fixture.https(&host, "/"), 200).seen();
    assert!(seen.sni.is_some(), "{seen:?}");
    // By HTTP/2 without TLS, by the Gateway API as the Service's port says.
    let call = |host: &str| fixture.https(host, "/echo.Echo/Say");
    let h2c = json!({"tls": {"mode": "default"}, "paths": [{"path": "/", "service": "blog", "port": 8081}]});
    for (api, name, values) in [
        (Api::Ingress, "grpc", to("GRPC", "h2c")),
        (Api::Ingress, "grpcs", to("GRPCS", "https")),
        (Api::Gateway, "grpc", h2c),
    ] {
        let host = fixture.serve(api, name, values);
        let seen = fixture.until(&fixture.https(&host, "/"), 200).seen();
        assert_eq!(seen.version, "HTTP/2.0", "{name}, {api:?}");
        let answer = call(&host).grpc(b"hello").unwrap();
        assert_eq!(answer.body, b"\0\0\0\0\x05hello", "{name}, {api:?}");
        assert_eq!(answer.header("called"), Some("/echo.Echo/Say"), "{name}, {api:?}");
        assert_eq!(answer.header("grpc-status"), Some("0"), "{name}, {api:?}: {answer:?}");
    }
}

#[test]
fn a_websocket_passes() {
    let fixture = shared();
    for api in APIS {
        for (name, port) in [("socket", HTTP), ("said-socket", 8082)] {
            let paths = json!([{"path": "/chat", "service": "blog", "port": port, "stripPrefix": true}]);
            let host = fixture.serve(api, name, json!({"paths": paths}));
            fixture.until_plain(&host, "/chat", 200);
            let (answer, text) = fixture.http(&host, "/chat/room").websocket("hello").unwrap();
            assert_eq!((answer.status, text.as_str()), (101, "hello"), "{name}, {api:?}: {answer:?}");
            // RFC 6455, section 1.3.
            assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        }
    }
}
