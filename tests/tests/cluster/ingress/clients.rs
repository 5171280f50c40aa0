//! Access of clients: by address, by password, by the answer of an authentication service, and for scripts of
//! other sites.

use serde_json::json;

use super::{
    fixture::{Api, HTTP, shared},
    limits::counted,
};

#[test]
fn a_client_is_known_by_the_address_that_a_trusted_balancer_says() {
    let fixture = shared();
    let [balancer, other] = fixture.cluster.outside();
    let host = fixture.serve(Api::Ingress, "allowed", json!({"allowFrom": ["203.0.113.0/24"]}));
    let ask = fixture.http(&host, "/");
    let announced = |client: &str| ask.clone().from(balancer).announced(client.parse().unwrap());
    fixture.until(&announced("203.0.113.9"), 200);
    assert_eq!(announced("198.51.100.7").send().unwrap().status, 403);
    // Without that word it is who it is, whatever it writes.
    assert_eq!(ask.clone().from(other).send().unwrap().status, 403);
    let forged = ask.header("X-Forwarded-For", "203.0.113.9").from(other);
    assert_eq!(forged.send().unwrap().status, 403);
    // Limits count by that address too.
    let host = fixture.serve(Api::Ingress, "announced", json!({"rateLimit": {"rpm": 1}}));
    let ask = fixture.http(&host, "/");
    let announced = |client: &str| ask.clone().from(balancer).announced(client.parse().unwrap());
    fixture.until(&announced("203.0.113.1"), 200);
    let mut client = 0;
    counted("five times one, for each client", || {
        client += 1;
        let ask = |number: u8| announced(&format!("203.0.113.{number}")).send().unwrap().status;
        let statuses: Vec<_> = (0..7).map(|_| ask(client)).collect();
        statuses == [200, 200, 200, 200, 200, 429, 429] && ask(client + 100) == 200
    });
}

#[test]
fn who_has_no_password_is_asked_for_one() {
    let fixture = shared();
    // alice:sesame, as htpasswd writes it.
    let users = "alice:$apr1$tOk4yqRS$L9Pbb0FBi3aOakVkdHMZs/";
    let literal = format!("--from-literal=auth={users}");
    fixture.web.kubectl(&["create", "secret", "generic", "users", &literal]);
    let values = json!({"auth": {"basic": {"secret": "users", "realm": "the shop"}}});
    let host = fixture.serve(Api::Ingress, "password", values);
    let answer = fixture.until_plain(&host, "/", 401);
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"the shop\""));
    let ask = |who: &str| fixture.http(&host, "/").header("Authorization", &format!("Basic {who}"));
    // alice:sesame and alice:guess
    assert_eq!(ask("YWxpY2U6c2VzYW1l").send().unwrap().status, 200);
    assert_eq!(ask("YWxpY2U6Z3Vlc3M=").send().unwrap().status, 401);
}

#[test]
fn a_service_is_asked_about_each_request() {
    let fixture = shared();
    let url = format!("http://blog.{}.svc:{HTTP}/verify", fixture.web.name());
    let external = |more: serde_json::Value| {
        let mut external = json!({"url": url, "responseHeaders": ["Remote-User"]});
        external.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"auth": {"external": external}, "paths": [{"path": "/", "service": "shop", "port": HTTP}]})
    };
    let host = fixture.serve(Api::Ingress, "asked", external(json!({"method": "POST"})));
    fixture.until_plain(&host, "/", 401);
    let signed_in = |host: &str| {
        // The address that a client claims does not count.
        fixture
            .http(host, "/")
            .header("Cookie", "session=yes")
            .header("Remote-User", "mallory")
            .send()
            .unwrap()
    };
    let answer = signed_in(&host);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.seen().headers["remote-user"], "alice");
    let signin = json!({"signin": "https://login.example.com/start"});
    let host = fixture.serve(Api::Ingress, "signin", external(signin));
    let answer = fixture.until_plain(&host, "/", 302);
    let location = answer.header("location").unwrap();
    assert!(location.starts_with("https://login.example.com/start"), "{location}");
    assert_eq!(signed_in(&host).status, 200);
}

#[test]
fn scripts_of_named_sites_may_ask() {
    let fixture = shared();
    let cors = json!({
        "origins": ["https://app.example.com", "https://www.example.org"], "credentials": true, "maxAge": "2h",
        "methods": ["GET", "PUT"], "headers": ["X-Token"], "exposeHeaders": ["X-Total"],
    });
    let host = fixture.serve(Api::Ingress, "cors", json!({"cors": cors}));
    let preflight = |host: &str, origin: &str| {
        let ask = fixture.http(host, "/").method("OPTIONS").header("Origin", origin);
        ask.header("Access-Control-Request-Method", "PUT").send().unwrap()
    };
    fixture.until_plain(&host, "/", 200);
    let answer = preflight(&host, "https://www.example.org");
    assert!([200, 204].contains(&answer.status), "{answer:?}");
    for (name, value) in [
        ("allow-origin", "https://www.example.org"),
        ("allow-credentials", "true"),
        ("allow-methods", "GET,PUT"),
        ("allow-headers", "X-Token"),
        ("max-age", "7200"),
    ] {
        assert_eq!(answer.header(&format!("access-control-{name}")), Some(value), "{answer:?}");
    }
    let ask = fixture.http(&host, "/").header("Origin", "https://app.example.com").send().unwrap();
    assert_eq!(ask.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(ask.header("access-control-expose-headers"), Some("X-Total"));
    for stranger in ["https://evil.example.net", "https://app.example.com.evil.net", "http://app.example.com"]
    {
        assert_eq!(preflight(&host, stranger).header("access-control-allow-origin"), None, "{stranger}");
    }

    let host = fixture.serve(Api::Ingress, "cors-all", json!({"cors": {"origins": ["*"]}}));
    fixture.until_plain(&host, "/", 200);
    let plain = fixture.http(&host, "/").header("Origin", "https://a.example.net").send().unwrap();
    for answer in [preflight(&host, "https://a.example.net"), plain] {
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
}
