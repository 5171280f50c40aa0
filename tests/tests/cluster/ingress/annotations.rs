//! Annotations that the chart passes on as they are: those that are in use and that no value of the chart
//! stands for.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::cluster::traefik::Class;

use super::{
    fixture::{Api, HTTP, shared},
    limits::counted,
};

fn to_shop(more: &Value) -> Value {
    let mut values = json!({"paths": [{"path": "/", "service": "shop", "port": HTTP}]});
    values.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    values
}

#[test]
fn a_host_has_other_names() {
    let fixture = shared();
    let own = json!({"annotations": {"server-alias": "alias.example.com", "from-to-www-redirect": "true"}});
    let host = fixture.serve(Api::Ingress, "names", own);
    assert_eq!(fixture.until_plain("alias.example.com", "/", 200).seen().host, "alias.example.com");
    let answer = fixture.until_plain(&format!("www.{host}"), "/a?b=c", 308);
    assert_eq!(answer.header("location"), Some(format!("http://{host}/a?b=c").as_str()));
}

#[test]
fn a_request_is_changed_on_its_way() {
    let fixture = shared();
    let values = json!({
        "annotations": {"upstream-vhost": "inner.example.com", "x-forwarded-prefix": "/shop", "proxy-http-version": "1.1", "service-upstream": "true"},
        "paths": [{"path": "/shop", "service": "shop", "port": HTTP, "stripPrefix": true}],
    });
    let host = fixture.serve(Api::Ingress, "changed", values);
    let seen = fixture.until_plain(&host, "/shop/a", 200).seen();
    assert_eq!((seen.host.as_str(), seen.path.as_str()), ("inner.example.com", "/a"));
    assert_eq!(seen.headers["x-forwarded-prefix"], "/shop");
}

#[test]
fn an_error_has_a_page_of_another_service() {
    let fixture = shared();
    let own = json!({"annotations": {"custom-http-errors": "404,503", "default-backend": "shop"}});
    let host = fixture.serve(Api::Ingress, "errors", own);
    fixture.until_plain(&host, "/", 200);
    let ask = |status: u16| fixture.http(&host, &format!("/?status={status}")).send().unwrap();
    assert!(ask(503).seen().server.starts_with("shop-"));
    assert!(ask(500).seen().server.starts_with("blog-"));
}

#[test]
fn a_request_finds_its_pod_by_what_it_asks_for() {
    let fixture = shared();
    let host = fixture.serve(
        Api::Ingress,
        "hashed",
        to_shop(&json!({"annotations": {"upstream-hash-by": "$request_uri"}})),
    );
    fixture.until_plain(&host, "/", 200);
    let pod = |path: &str| fixture.http(&host, path).send().unwrap().seen().server;
    let same: BTreeSet<_> = (0..10).map(|_| pod("/same")).collect();
    let others: BTreeSet<_> = (0..30).map(|number| pod(&format!("/{number}"))).collect();
    assert_eq!((same.len(), others.len()), (1, 3));
}

#[test]
fn some_requests_go_to_a_new_version() {
    let fixture = shared();
    // A port of its own: to the engine, what a canary is for is a Service's port, whichever Ingress leads
    // there.
    let paths = json!([{"path": "/", "service": "shop", "port": "ws"}]);
    let host = fixture.serve(Api::Ingress, "stable", json!({"paths": paths}));
    let canary =
        json!({"domains": [host], "annotations": {"canary": "true", "canary-by-header": "X-Canary"}});
    fixture.serve(Api::Ingress, "canary", canary);
    let ask = fixture.http(&host, "/");
    let new = ask.clone().header("X-Canary", "always");
    tests::wait::until_true("the new version answers", std::time::Duration::from_secs(60), || {
        new.send().is_ok_and(|answer| answer.status == 200 && answer.seen().server.starts_with("blog-"))
    });
    assert!(ask.send().unwrap().seen().server.starts_with("shop-"));
}

#[test]
fn a_burst_is_as_large_as_it_is_told() {
    let fixture = shared();
    let values = json!({"rateLimit": {"rpm": 3}, "annotations": {"limit-burst-multiplier": "1"}});
    let host = fixture.serve(Api::Ingress, "burst", values);
    let ask = fixture.http(&host, "/");
    fixture.until(&ask, 200);
    // Another address each time: what was counted for one is forgotten slowly.
    let [balancer, _] = fixture.cluster.outside();
    let mut client = 0;
    counted("one time three", || {
        client += 1;
        let ask = ask.clone().from(balancer).announced(format!("203.0.113.{client}").parse().unwrap());
        let statuses: Vec<_> = (0..5).map(|_| ask.send().unwrap().status).collect();
        statuses == [200, 200, 200, 429, 429]
    });
}

#[test]
fn a_client_has_a_certificate_or_comes_in_vain() {
    let fixture = shared();
    let literal = format!("--from-literal=ca.crt={}", fixture.authority);
    fixture.web.kubectl(&["create", "secret", "generic", "clients-ca", &literal]);
    let name = format!("{}/clients-ca", fixture.web.name());
    let values = |own: Value| json!({"tls": {"mode": "default"}, "annotations": own});
    let host = fixture.serve(Api::Ingress, "known", values(json!({"auth-tls-secret": name})));
    let optional = json!({"auth-tls-secret": name, "auth-tls-verify-client": "optional"});
    let other = fixture.serve(Api::Ingress, "optional", values(optional));
    fixture.until(&fixture.https(&other, "/"), 200);
    tests::wait::until_true("no client without a certificate", std::time::Duration::from_secs(60), || {
        fixture.https(&host, "/").send().is_err()
    });
    // The private controller knows nothing of it.
    let private = tests::web::Request::new(fixture.controllers.door(Class::Private, true), &host, "/").tls();
    assert_eq!(private.send().unwrap().status, 404);
}
