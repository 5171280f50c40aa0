//! Certificates, the way from plain HTTP to HTTPS, and headers that protect.

use std::time::Duration;

use serde_json::json;
use tests::{cluster::traefik::tls_secret, wait};

use super::fixture::{APIS, Api, shared};

#[test]
fn a_certificate_is_that_of_its_mode_and_plain_http_leads_to_it() {
    let fixture = shared();
    let certificate = |secret: &str, host: &str| {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        fixture.web.apply(&tls_secret(secret, &made.cert.pem(), &made.signing_key.serialize_pem()));
        made.cert.der().to_vec()
    };
    let shared = certificate("shared-tls", "shared-ingress.example.com");
    // What cert-manager would make of the annotation.
    let dedicated = certificate("dedicated-ingress-tls", "dedicated-ingress.example.com");
    let table = [("shared", Some(&shared)), ("dedicated", Some(&dedicated)), ("default", None)];
    for (mode, expected) in table {
        let host = fixture.serve(Api::Ingress, mode, json!({"tls": {"mode": mode}}));
        let ask = fixture.https(&host, "/a");
        fixture.until(&ask, 200);
        // It comes a moment after the route.
        wait::until_true(&format!("the certificate of {mode}"), Duration::from_secs(30), || {
            let presented = ask.send().unwrap().certificate;
            assert!(!presented.is_empty());
            [&shared, &dedicated].into_iter().find(|known| **known == presented) == expected
        });
        let answer = fixture.http(&host, "/a/b?c=d").send().unwrap();
        let location = format!("https://{host}/a/b?c=d");
        assert_eq!((answer.status, answer.header("location")), (308, Some(location.as_str())), "{mode}");
    }
    let host = fixture.serve(Api::Ingress, "both", json!({"tls": {"mode": "default", "redirect": false}}));
    fixture.until_plain(&host, "/", 200);
    assert_eq!(fixture.https(&host, "/").send().unwrap().status, 200);
}

#[test]
fn what_is_passed_through_is_the_services_own() {
    let fixture = shared();
    let values =
        json!({"tls": {"mode": "passthrough"}, "paths": [{"path": "/", "service": "blog", "port": "https"}]});
    let host = fixture.serve(Api::Ingress, "passthrough", values);
    let answer = fixture.until(&fixture.https(&host, "/a"), 200);
    let seen = answer.seen();
    assert_eq!((seen.sni.as_deref(), seen.path.as_str()), (Some(host.as_str()), "/a"));
    // A pod's own certificate, which names it so.
    assert!(answer.certificate.windows(4).any(|word| word == b"echo"));
    let answer = fixture.until_plain(&host, "/a", 308);
    assert_eq!(answer.header("location"), Some(format!("https://{host}/a").as_str()));
}

#[test]
fn where_tls_ends_at_a_balancer_its_word_decides() {
    let fixture = shared();
    let host =
        fixture.serve(Api::Ingress, "balancer", json!({"tls": {"mode": "none", "redirect": "always"}}));
    let ask = fixture.http(&host, "/a?b=c");
    let [balancer, other] = fixture.cluster.outside();
    let answer = fixture.until(&ask, 308);
    assert_eq!(answer.header("location"), Some(format!("https://{host}/a?b=c").as_str()));
    let https = ask.header("X-Forwarded-Proto", "https");
    assert_eq!(https.clone().from(balancer).send().unwrap().status, 200);
    // Any client may send the header.
    assert_eq!(https.from(other).send().unwrap().status, 308);
}

#[test]
fn a_route_stands_at_both_listeners_or_leads_from_one_to_the_other() {
    let fixture = shared();
    let host = fixture.serve(Api::Gateway, "default", json!({"tls": {"mode": "default"}}));
    fixture.until(&fixture.https(&host, "/a"), 200);
    let answer = fixture.until_plain(&host, "/a/b?c=d", 301);
    assert_eq!(answer.header("location"), Some(format!("https://{host}/a/b?c=d").as_str()));
    let host = fixture.serve(Api::Gateway, "both", json!({"tls": {"mode": "default", "redirect": false}}));
    fixture.until(&fixture.https(&host, "/"), 200);
    fixture.until_plain(&host, "/", 200);
    fixture.accepted("httproute", "both-gateway");
}

#[test]
fn headers_stand_in_every_response() {
    let fixture = shared();
    let values = json!({
        "tls": {"mode": "default", "redirect": false},
        "headers": {"security": true, "response": {"X-Team": "shop"}},
    });
    for api in APIS {
        let host = fixture.serve(api, "headers", values.clone());
        for request in [fixture.https(&host, "/"), fixture.http(&host, "/")] {
            let answer = fixture.until(&request, 200);
            for (name, value) in [
                ("x-team", "shop"),
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "SAMEORIGIN"),
                ("referrer-policy", "strict-origin-when-cross-origin"),
                ("strict-transport-security", "max-age=31536000; includeSubDomains"),
            ] {
                assert_eq!(answer.header(name), Some(value), "{api:?}: {name}");
            }
        }
    }
    // As the notes say: the engine serves none with a header that it does not permit.
    let host =
        fixture.serve(Api::Ingress, "not-permitted", json!({"headers": {"response": {"X-Other": "1"}}}));
    fixture.until_plain(&host, "/", 503);
}
