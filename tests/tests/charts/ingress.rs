//! The chart `ingress`: where requests go by the objects that it renders, what the engine is told, and what
//! is refused.

use regex::Regex;
use serde_json::{Value, json};

use super::{Refused, names, notes, one, refuse, render, warns};

const BASE: &str = "domains: [app.example.com]\npaths: [{path: /, service: web, port: http}]\n";
const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// This service is asked for this path.
    Service(String, String),
    Redirect(u16, String),
    NotFound,
}

fn service(name: &str, path: &str) -> Answer {
    Answer::Service(name.to_owned(), path.to_owned())
}

fn redirect(code: u16, url: &str) -> Answer {
    Answer::Redirect(code, url.to_owned())
}

/// Asks as Traefik's provider for these annotations does: of the rules that match, the longest one; a rewrite
/// by the path's expression; a redirect by the expression behind scheme and host, held against the whole
/// address.
fn ask(ingresses: &[Value], target: &str) -> Answer {
    let (path, query) =
        target.split_once('?').map_or((target, String::new()), |(path, query)| (path, format!("?{query}")));
    let mut found: Option<(usize, &Value, &Value)> = None;
    for ingress in ingresses.iter().filter(|object| object["kind"] == "Ingress") {
        assert_eq!(ingress["metadata"]["annotations"][format!("{PREFIX}use-regex")], "true", "{ingress}");
        for entry in ingress["spec"]["rules"][0]["http"]["paths"].as_array().unwrap() {
            assert_eq!(entry["pathType"], "ImplementationSpecific", "{entry}");
            let expression = entry["path"].as_str().unwrap();
            assert!(expression.starts_with('/'), "{expression}");
            let longer = found.is_none_or(|(length, ..)| expression.len() > length);
            if Regex::new(&format!("(?i)^{expression}")).unwrap().is_match(path) && longer {
                found = Some((expression.len(), ingress, entry));
            }
        }
    }
    let Some((_, ingress, entry)) = found else { return Answer::NotFound };
    let annotation = |name: &str| ingress["metadata"]["annotations"][format!("{PREFIX}{name}")].as_str();
    let expression = entry["path"].as_str().unwrap();
    for (name, code) in [("permanent-redirect", 301), ("temporal-redirect", 302)] {
        if let Some(to) = annotation(name) {
            let whole = Regex::new(&format!("^https?://[^/]+{expression}")).unwrap();
            let url = format!("https://app.example.com{target}");
            return Answer::Redirect(code, whole.replace_all(&url, to).into_owned());
        }
    }
    let path = match annotation("rewrite-target") {
        Some(to) => Regex::new(&format!("(?i){expression}")).unwrap().replace_all(path, to).into_owned(),
        None => path.to_owned(),
    };
    service(entry["backend"]["service"]["name"].as_str().unwrap(), &format!("{path}{query}"))
}

fn answers(values: &str, table: &[(&str, Answer)]) {
    let objects = render("ingress", values);
    for (target, expected) in table {
        assert_eq!(ask(&objects, target), *expected, "{target} by\n{values}");
    }
}

#[test]
fn a_path_is_itself_and_what_is_below_it() {
    let values = "domains: [app.example.com]\npaths: [{path: /, service: web, port: http}, {path: /health, exact: true, service: health, port: http}, \
                  {path: /api, service: api, port: 80}, {path: /api/v2, service: v2, port: 80}, {path: '/v1/items:batch', service: batch, port: 80}, \
                  {path: /v1.0, service: dot, port: 80}, {path: '/a+b~@c', service: letters, port: 80}, {path: /exact, exact: true, service: exact, port: 80}, \
                  {path: /exact/below, service: below, port: 80}, {path: '/n/([0-9]+)$', regex: true, service: numbers, port: 80}]";
    let table = [
        ("/", service("web", "/")),
        ("/x?y=1", service("web", "/x?y=1")),
        ("/health", service("health", "/health")),
        ("/health/", service("web", "/health/")),
        ("/healthy", service("web", "/healthy")),
        ("/api", service("api", "/api")),
        ("/api/", service("api", "/api/")),
        ("/api/x", service("api", "/api/x")),
        ("/apix", service("web", "/apix")),
        ("/API", service("web", "/API")),
        ("/api/v2/x", service("v2", "/api/v2/x")),
        ("/api/v2x", service("api", "/api/v2x")),
        ("/v1/items:batch", service("batch", "/v1/items:batch")),
        ("/v1.0/x", service("dot", "/v1.0/x")),
        ("/v1x0/x", service("web", "/v1x0/x")),
        ("/a+b~@c", service("letters", "/a+b~@c")),
        ("/exact", service("exact", "/exact")),
        ("/exact/below/x", service("below", "/exact/below/x")),
        ("/n/42", service("numbers", "/n/42")),
        ("/n/42x", service("web", "/n/42x")),
    ];
    answers(values, &table);
    answers(
        "domains: [a.example.com]\npaths: [{path: /shop, service: shop, port: 80}]",
        &[("/", Answer::NotFound), ("/shopping", Answer::NotFound)],
    );
}

#[test]
fn a_prefix_is_stripped_and_a_path_rewritten() {
    let values = "domains: [app.example.com]\npaths: [{path: /shop, service: shop, port: http, stripPrefix: true}, {path: /old/api, rewrite: /api/v2, \
                  service: api, port: 80}, {path: /up, rewrite: /, service: api, port: 80}, {path: /logo, exact: true, rewrite: /static/logo.svg, service: web, port: 80}, \
                  {path: '/users/([0-9]+)$', regex: true, rewrite: /u/$1, service: api, port: 80}]";
    let table = [
        ("/shop", service("shop", "/")),
        ("/shop/", service("shop", "/")),
        ("/shop/a%20b?x=1", service("shop", "/a%20b?x=1")),
        ("/shop/shop/shop", service("shop", "/shop/shop")),
        ("/shopping", Answer::NotFound),
        ("/old/api", service("api", "/api/v2/")),
        ("/old/api/x", service("api", "/api/v2/x")),
        ("/up/x", service("api", "/x")),
        ("/logo", service("web", "/static/logo.svg")),
        ("/users/7", service("api", "/u/7")),
    ];
    answers(values, &table);
}

#[test]
fn a_release_answers_the_same_beside_one_that_rewrites() {
    let ours = render("ingress", "domains: [app.example.com]\npaths: [{path: /api, service: api, port: 80}]");
    let theirs = render(
        "ingress",
        "domains: [app.example.com]\npaths: [{path: /shop, service: shop, port: 80, stripPrefix: true}]",
    );
    let both = [ours.clone(), theirs].concat();
    for target in ["/api", "/api/x", "/apix", "/api-internal", "/API"] {
        assert_eq!(ask(&ours, target), ask(&both, target), "{target}");
    }
    assert_eq!(ask(&both, "/apix"), Answer::NotFound);
    assert_eq!(ask(&both, "/shop/x"), service("shop", "/x"));
}

#[test]
fn a_redirect_keeps_the_query_and_the_path_if_it_is_told_to() {
    let values = "domains: [app.example.com]\npaths: [{path: /, service: web, port: http}]\nredirects: [{from: /old, to: 'https://new.example.com/x', \
                  permanent: true, keepPath: true}, {from: /gone, to: 'https://new.example.com/y'}, {from: /sale, to: 'https://new.example.com/?from=sale'}]";
    let table = [
        ("/old", redirect(301, "https://new.example.com/x")),
        ("/old/a?b=1", redirect(301, "https://new.example.com/x/a?b=1")),
        ("/old?b=1", redirect(301, "https://new.example.com/x?b=1")),
        ("/older", service("web", "/older")),
        ("/other", service("web", "/other")),
        ("/gone/a", redirect(302, "https://new.example.com/y")),
        ("/gone/a?b=1", redirect(302, "https://new.example.com/y?b=1")),
        ("/sale?b=1", redirect(302, "https://new.example.com/?from=sale")),
    ];
    answers(values, &table);
    let whole =
        "domains: [app.example.com]\nredirects: [{from: /, to: 'https://new.example.com/', keepPath: true}]";
    answers(
        whole,
        &[
            ("/", redirect(302, "https://new.example.com/")),
            ("/a?b=1", redirect(302, "https://new.example.com/a?b=1")),
        ],
    );
    let page = "domains: [app.example.com]\nredirects: [{from: /, to: 'https://new.example.com/moved'}]";
    answers(
        page,
        &[
            ("/", redirect(302, "https://new.example.com/moved")),
            ("/a?b=1", redirect(302, "https://new.example.com/moved?b=1")),
        ],
    );
}

/// Annotations of the engine on the Ingress that is called so.
fn annotations(values: &str, name: &str) -> Value {
    let objects = render("ingress", &format!("{BASE}{values}"));
    let all = one(&objects, "Ingress", name)["metadata"]["annotations"].as_object().unwrap().clone();
    let plain = all.into_iter().map(|(key, value)| (key.trim_start_matches(PREFIX).to_owned(), value));
    Value::Object(plain.collect())
}

/// Annotations that are there, or are not.
type Told = &'static [(&'static str, Option<&'static str>)];

#[test]
fn the_engine_is_told_what_makes_a_setting_hold() {
    const TOLD: &[(&str, Told)] = &[
        (
            "",
            &[
                ("proxy-body-size", None),
                ("proxy-request-buffering", None),
                ("limit-rps", None),
                ("backend-protocol", None),
            ],
        ),
        ("bodySize: 1m", &[("proxy-body-size", Some("1m")), ("proxy-request-buffering", Some("on"))]),
        ("bodySize: 0", &[("proxy-body-size", Some("0")), ("proxy-request-buffering", None)]),
        (
            "bodySize: 0\nrequestBuffering: false",
            &[("proxy-body-size", Some("0")), ("proxy-request-buffering", Some("off"))],
        ),
        (
            "responseBuffering: true\nbuffers: {size: 16k}",
            &[("proxy-buffering", Some("on")), ("proxy-buffer-size", Some("16k"))],
        ),
        (
            "timeouts: {read: 20m, send: 90, connect: 5s}",
            &[
                ("proxy-read-timeout", Some("1200")),
                ("proxy-send-timeout", Some("90")),
                ("proxy-connect-timeout", Some("5")),
            ],
        ),
        (
            "rateLimit: {rps: 2, connections: 3}",
            &[("limit-rps", Some("2")), ("limit-connections", Some("3")), ("limit-rpm", None)],
        ),
        (
            "allowFrom: [203.0.113.0/24, '2001:db8::/32']",
            &[("whitelist-source-range", Some("203.0.113.0/24,2001:db8::/32"))],
        ),
        (
            "auth: {basic: {secret: users, realm: Shop}}",
            &[("auth-type", Some("basic")), ("auth-secret", Some("users")), ("auth-realm", Some("Shop"))],
        ),
        (
            "auth: {external: {url: 'http://a/b', responseHeaders: [X-A, X-B]}}",
            &[("auth-url", Some("http://a/b")), ("auth-response-headers", Some("X-A,X-B"))],
        ),
        (
            "cors: {origins: ['*']}",
            &[
                ("enable-cors", Some("true")),
                ("cors-allow-origin", Some("*")),
                ("cors-allow-credentials", Some("false")),
            ],
        ),
        (
            "cors: {origins: ['https://a.example.com'], credentials: true, maxAge: 10m}",
            &[("cors-allow-credentials", Some("true")), ("cors-max-age", Some("600"))],
        ),
        (
            "sticky: {enabled: true, maxAge: 1h}",
            &[
                ("affinity", Some("cookie")),
                ("session-cookie-name", Some("route")),
                ("session-cookie-max-age", Some("3600")),
                ("session-cookie-expires", None),
                ("session-cookie-secure", Some("true")),
            ],
        ),
        (
            "sticky: {enabled: true}\ntls: {mode: none}",
            &[("session-cookie-secure", Some("false")), ("session-cookie-max-age", None)],
        ),
        ("protocol: GRPC", &[("backend-protocol", Some("GRPC"))]),
        ("headers: {response: {X-A: b}}", &[("custom-headers", Some("web/shop-headers"))]),
        ("tls: {mode: shared}", &[("ssl-redirect", Some("true")), ("force-ssl-redirect", None)]),
        ("tls: {mode: shared, redirect: false}", &[("ssl-redirect", Some("false"))]),
        ("tls: {mode: none}", &[("ssl-redirect", None), ("force-ssl-redirect", None)]),
        ("tls: {mode: none, redirect: always}", &[("force-ssl-redirect", Some("true"))]),
        (
            "annotations: {proxy-next-upstream: 'off', example.com/x: 'y'}",
            &[("proxy-next-upstream", Some("off")), ("example.com/x", Some("y"))],
        ),
    ];
    for (values, told) in TOLD {
        let annotations = annotations(values, "shop");
        for (name, expected) in *told {
            assert_eq!(annotations[name].as_str(), *expected, "{values}: {name} in {annotations}");
        }
        assert!(annotations.as_object().unwrap().values().all(Value::is_string), "{annotations}");
    }
    let objects =
        render("ingress", &format!("{BASE}headers: {{security: true, response: {{X-Frame-Options: DENY}}}}"));
    let headers = &one(&objects, "ConfigMap", "shop-headers")["data"];
    assert_eq!(
        (&headers["X-Frame-Options"], &headers["X-Content-Type-Options"]),
        (&json!("DENY"), &json!("nosniff"))
    );
    assert!(headers["Strict-Transport-Security"].is_string(), "{headers}");
}

#[test]
fn a_certificate_is_shared_or_dedicated_or_the_engines() {
    let tls = |values: &str| {
        let objects = render("ingress", &format!("{BASE}{values}"));
        let ingress = one(&objects, "Ingress", "shop");
        let issued = ingress["metadata"]["annotations"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| key.starts_with("cert-manager.io/"));
        let issued: Vec<_> =
            issued.map(|(key, value)| format!("{key}={}", value.as_str().unwrap())).collect();
        (ingress["spec"]["tls"].clone(), issued)
    };
    let entry = |secret: &str| json!([{"hosts": ["app.example.com"], "secretName": secret}]);
    assert_eq!(tls("tls: {mode: shared, secretName: tenant-tls}"), (entry("tenant-tls"), vec![]));
    assert_eq!(
        tls("tls: {mode: dedicated}"),
        (entry("shop-tls"), vec!["cert-manager.io/cluster-issuer=letsencrypt".to_owned()])
    );
    assert_eq!(
        tls("tls: {mode: dedicated, issuer: {name: x, kind: Issuer}}").1,
        ["cert-manager.io/issuer=x"]
    );
    assert_eq!(tls("tls: {mode: default}"), (json!([{"hosts": ["app.example.com"]}]), vec![]));
    assert_eq!(tls("tls: {mode: none}"), (Value::Null, vec![]));
    // However many Ingresses there are, one asks.
    let objects = render(
        "ingress",
        "domains: [a.example.com]\ntls: {mode: dedicated}\npaths: [{path: /a, service: a, port: 80, stripPrefix: true}, {path: /b, rewrite: /c, service: b, port: 80}]",
    );
    let asking = objects
        .iter()
        .filter(|object| object["metadata"]["annotations"].to_string().contains("cert-manager.io/"));
    assert_eq!((names(&objects, "Ingress").len(), asking.count()), (2, 1));
}

#[test]
fn classes_are_those_of_the_two_controllers() {
    let class = |values: &str| {
        one(&render("ingress", &format!("{BASE}{values}")), "Ingress", "shop")["spec"]["ingressClassName"]
            .clone()
    };
    assert_eq!(class(""), "nginx");
    assert_eq!(class("class: private"), "nginx-private");
    assert_eq!(class("class: private\nclasses: {private: internal}"), "internal");
}

#[test]
fn a_backend_outside_is_asked_by_its_own_name() {
    let values = "domains: [app.example.com]\npaths: [{path: /, backend: legacy}, {path: /m, backend: maps, stripPrefix: true}]\nexternalBackends: \
                  [{name: legacy, host: legacy.example.net, scheme: https}, {name: maps, addresses: [192.0.2.10, '2001:db8::10'], port: 8443, scheme: https, \
                  serverName: maps.example.net, verify: {caSecret: maps-ca}}]";
    let objects = render("ingress", values);
    let legacy = &one(&objects, "Service", "shop-to-legacy")["spec"];
    assert_eq!(
        (&legacy["type"], &legacy["externalName"]),
        (&json!("ExternalName"), &json!("legacy.example.net"))
    );
    assert_eq!(
        legacy["ports"],
        json!([{"name": "https", "port": 443, "targetPort": 443, "protocol": "TCP"}])
    );
    let told = |name: &str, key: &str| {
        one(&objects, "Ingress", name)["metadata"]["annotations"][format!("{PREFIX}{key}")].clone()
    };
    for (ingress, host) in
        [("shop-to-legacy", "legacy.example.net"), ("shop-to-maps-strip", "maps.example.net")]
    {
        assert_eq!(told(ingress, "backend-protocol"), "HTTPS");
        assert_eq!(told(ingress, "upstream-vhost"), host);
        assert_eq!(told(ingress, "proxy-ssl-name"), host);
    }
    assert_eq!(told("shop-to-legacy", "proxy-ssl-verify"), Value::Null);
    assert_eq!(told("shop-to-maps-strip", "proxy-ssl-verify"), "on");
    assert_eq!(told("shop-to-maps-strip", "proxy-ssl-secret"), "web/maps-ca");
    let maps = one(&objects, "Service", "shop-to-maps");
    assert_eq!((&maps["spec"]["selector"], &maps["spec"]["clusterIP"]), (&Value::Null, &Value::Null));
    assert_eq!(names(&objects, "EndpointSlice"), ["shop-to-maps-ipv4", "shop-to-maps-ipv6"]);
    for (slice, address) in [("shop-to-maps-ipv4", "192.0.2.10"), ("shop-to-maps-ipv6", "2001:db8::10")] {
        let slice = one(&objects, "EndpointSlice", slice);
        assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "shop-to-maps");
        assert!(slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"].is_string());
        assert_eq!(slice["ports"][0]["name"], maps["spec"]["ports"][0]["name"]);
        assert_eq!(slice["endpoints"], json!([{"addresses": [address], "conditions": {"ready": true}}]));
    }
    assert_eq!(ask(&objects, "/m/x"), service("shop-to-maps", "/x"));
    assert_eq!(ask(&objects, "/x"), service("shop-to-legacy", "/x"));
}

#[test]
fn what_the_engine_ignores_is_warned_of() {
    let warned = |values: &str, words: &str| warns("ingress", &format!("{BASE}{values}"), words);
    warned("rateLimit: {rps: 10, connections: 10}", "rateLimit.connections and a limit in time hold both");
    warned("annotations: {session-cookie-hash: sha1}", "Traefik ignores session-cookie-hash");
    warned("annotations: {load-balance: ewma}", "Traefik ignores load-balance");
    warned("annotations: {affinity-mode: balanced}", "takes balanced for it");
    warned("annotations: {enable-websockets: 'true'}", "no such annotation as enable-websockets");
    let said = notes(
        "ingress",
        &format!("{BASE}annotations: {{proxy-http-version: '1.1', example.com/x: z}}\nrateLimit: {{rps: 1}}"),
    );
    assert!(!said.contains("Warning"), "{said}");
    let said = notes("ingress", &format!("{BASE}headers: {{response: {{X-A: b}}}}"));
    assert!(said.contains("globalAllowedResponseHeaders") && said.contains("X-A"), "{said}");
}

#[test]
fn a_cdn_asks_for_what_it_has_not_by_another_name() {
    let values = "domains: [shop.example.com, www.example.com]\npaths: [{path: /, service: shop, port: 80}]\ncdn: {enabled: true, origin: origin.example.com}";
    let objects = render("ingress", values);
    // The engine serves that name alone: ExternalDNS would lead the others past the CDN.
    let ingress = &one(&objects, "Ingress", "shop")["spec"];
    assert_eq!(ingress["tls"][0]["hosts"], json!(["origin.example.com"]));
    let hosts: Vec<_> = ingress["rules"].as_array().unwrap().iter().map(|rule| &rule["host"]).collect();
    assert_eq!(hosts, ["origin.example.com"]);
    let config = &one(&objects, "Distribution", "shop")["spec"]["distributionConfig"];
    assert_eq!(config["aliases"]["items"], json!(["shop.example.com", "www.example.com"]));
    let origin = &config["origins"]["items"][0];
    assert_eq!(origin["domainName"], "origin.example.com");
    assert_eq!(origin["id"], config["defaultCacheBehavior"]["targetOriginID"]);
    assert_eq!(origin["customOriginConfig"]["originProtocolPolicy"], "https-only");
    assert_eq!(config["viewerCertificate"]["acmCertificateRef"], json!({"from": {"name": "shop"}}));
    let certificate = one(&objects, "Certificate", "shop");
    assert_eq!(certificate["metadata"]["annotations"]["services.k8s.aws/region"], "us-east-1");
    let given = "cdn: {enabled: true, origin: origin.example.com, certificateARN: 'arn:aws:acm:x'}";
    let given = render("ingress", &format!("{BASE}{given}"));
    assert_eq!(names(&given, "Certificate"), Vec::<&str>::new());
    let config = &one(&given, "Distribution", "shop")["spec"]["distributionConfig"];
    assert_eq!(config["viewerCertificate"]["acmCertificateARN"], "arn:aws:acm:x");
    let gateway = render("ingress", &format!("{values}\napi: gateway\ntls: {{mode: default}}"));
    for route in gateway.iter().filter(|object| object["kind"] == "HTTPRoute") {
        assert_eq!(route["spec"]["hostnames"], json!(["origin.example.com"]));
    }
    let said = notes("ingress", values);
    assert!(said.contains("get distribution shop"), "{said}");
}

const REFUSED: Refused = &[
    ("domain: [x]", "'domains'"),
    ("paths: [{path: /, servise: x, port: 1}]", "'service'"),
    ("domains: ['https://app.example.com']", "/domains/0"),
    ("paths: [{path: shop, service: x, port: 1}]", "/paths/0/path"),
    ("domains: []", "domains: there is none"),
    ("paths: []", "paths: there is none"),
    ("engine: ingress-nginx", "no security updates"),
    // Paths.
    ("paths: [{path: /, service: x, port: 1, backend: far}]", "either service or backend"),
    ("paths: [{path: /}]", "either service or backend"),
    ("paths: [{path: /, service: x}]", "say the port of x"),
    ("paths: [{path: /, backend: far}]", "is not among externalBackends"),
    (
        "paths: [{path: /, backend: far, port: 80}]\nexternalBackends: [{name: far, host: y.example.net}]",
        "stands under externalBackends",
    ),
    (
        "paths: [{path: /x, service: x, port: 1, stripPrefix: true, rewrite: /y}]",
        "either stripPrefix or rewrite",
    ),
    ("paths: [{path: /, service: x, port: 1, stripPrefix: true}]", "/ is none"),
    ("paths: [{path: /x, exact: true, regex: true, service: x, port: 1}]", "either exact or regex"),
    ("paths: [{path: /x, rewrite: /$1, service: x, port: 1}]", "Set regex to true"),
    ("paths: [{path: /x, rewrite: '/y?a=1', service: x, port: 1}]", "takes its question mark for a part"),
    ("paths: [{path: /x, service: x, port: 1}, {path: /x, service: z, port: 1}]", "/x stands there twice"),
    // Redirects.
    ("redirects: [{from: /old, to: 'https://new.example.com$request_uri'}]", "keepPath: true"),
    ("redirects: [{from: /old, to: /new}]", "write a whole address"),
    ("redirects: [{from: /old, to: 'https://new.example.com/?a=1', keepPath: true}]", "no path can be kept"),
    // Backends outside.
    ("externalBackends: [{name: far, host: 'https://legacy.example.net'}]", "host is a name, not a URL"),
    ("externalBackends: [{name: far, host: 192.0.2.10}]", "Use addresses: [192.0.2.10]"),
    ("externalBackends: [{name: far, addresses: [127.0.0.1]}]", "is of the node itself"),
    ("externalBackends: [{name: far, addresses: [169.254.169.254]}]", "(169.254.0.0/16)"),
    ("externalBackends: [{name: far, addresses: ['fe80::1']}]", "(fe80::/10)"),
    ("externalBackends: [{name: far, addresses: ['::1']}]", "(::1/128)"),
    ("externalBackends: [{name: far, addresses: [1.2.3]}]", "1.2.3 is no address"),
    ("externalBackends: [{name: far}]", "either host or addresses"),
    (
        "externalBackends: [{name: far, host: a.example.net}, {name: far, host: b.example.net}]",
        "two are called far",
    ),
    ("externalBackends: [{name: far, host: a.example.net, verify: {caSecret: ca}}]", "are for scheme https"),
    (
        "externalBackends: [{name: far, addresses: [192.0.2.1], scheme: https, verify: {caSecret: ca}}]",
        "say serverName of far",
    ),
    // Settings that would not hold.
    ("bodySize: 1m\nrequestBuffering: false", "bodySize is 1m, and requestBuffering is false"),
    ("bodySize: 1.5m", "/bodySize"),
    ("buffers: {request: 1m}", "without requestBuffering: true"),
    ("buffers: {size: 16k}", "without responseBuffering: true"),
    ("timeouts: {read: 1500ms}", "whole seconds"),
    ("timeouts: {read: soon}", "is no duration"),
    ("cors: {origins: ['*'], credentials: true}", "every site could act"),
    ("cors: {origins: ['https://*.example.com']}", "letter by letter"),
    ("cors: {origins: [app.example.com]}", "/cors/origins/0"),
    ("sticky: {enabled: true, sameSite: None}\ntls: {mode: none}", "sticky.sameSite"),
    ("auth: {basic: {secret: other/users}}", "Write its name alone"),
    ("auth: {external: {signin: 'https://login.example.com'}}", "say under url"),
    ("headers: {response: {'X A': b}}", "no name of a header"),
    ("headers: {response: {X-A: 'é'}}", "would answer 503"),
    ("cdn: {enabled: true}", "cdn.origin: say the name"),
    ("cdn: {enabled: true, origin: app.example.com}\ndomains: [app.example.com]", "would ask itself"),
    ("cdn: {enabled: true, origin: o.example.com}\ntls: {mode: none}", "asks by HTTPS alone"),
    ("cdn: {enabled: true, origin: o.example.com}\nallowFrom: [192.0.2.0/24]", "allowFrom would be about it"),
    ("cdn: {enabled: true, origin: o.example.com}\nsticky: {enabled: true}", "Leave out sticky"),
    ("cdn: {enabled: true, orign: o.example.com}", "'origin'"),
    // Annotations.
    ("annotations: {limit-connections: 10}", "quote it, limit-connections: \"10\""),
    ("annotations: {denylist-source-range: 203.0.113.0/24}", "is not enforced by Traefik"),
    ("annotations: {satisfy: any}", "is not enforced by Traefik"),
    ("annotations: {auth-tls-match-cn: CN=x}", "is not enforced by Traefik"),
    ("annotations: {limit-whitelist: 203.0.113.0/24}", "is not enforced by Traefik"),
    ("annotations: {enable-modsecurity: 'true'}", "put a firewall for applications in front"),
    ("annotations: {ssl-ciphers: x}", "is not enforced by Traefik"),
    ("annotations: {global-rate-limit: '5'}", "use rateLimit"),
    ("annotations: {nginx.ingress.kubernetes.io/mirror-target: x}", "is not enforced by Traefik"),
    ("annotations: {configuration-snippet: 'more_set_headers x;'}", "would not serve this Ingress at all"),
    ("annotations: {auth-snippet: x}", "set allowSnippets"),
    ("annotations: {proxy-read-timeout: 20m}", "write whole seconds"),
    ("annotations: {backend-protocol: FCGI}", "would speak plain HTTP"),
    ("annotations: {proxy-body-size: 1m}", "Use bodySize: 1m"),
    ("annotations: {permanent-redirect: 'https://new$request_uri'}", "with keepPath: true"),
    ("annotations: {cors-allow-origin: 'https://*.example.com'}", "letter by letter"),
    ("annotations: {rewrite-target: /}", "all paths of the host"),
    ("annotations: {use-regex: 'true'}", "all paths of the host"),
    ("annotations: {ssl-passthrough: 'true'}", "Set tls.mode to passthrough"),
    ("tls: {mode: passthrough}\npaths: [{path: /a, service: x, port: 1}]", "sees no paths there"),
    ("tls: {mode: passthrough}\nredirects: [{from: /a, to: 'https://b.example.com'}]", "sees no paths there"),
    (
        "tls: {mode: passthrough}\npaths: [{path: /, service: x, port: 1}]\nallowFrom: [192.0.2.0/24]",
        "whitelist-source-range would not hold",
    ),
    ("annotations: {limit-rps: '5'}\nrateLimit: {rps: 6}", "Say it once"),
];

/// What is refused by the Gateway API, beside routes that it can have.
const REFUSED_THERE: Refused = &[
    ("bodySize: 1m", "bodySize is not available with api: gateway"),
    ("requestBuffering: true", "requestBuffering is not available"),
    ("timeouts: {read: 5}", "timeouts is not available"),
    ("rateLimit: {rps: 5}", "rateLimit is not available"),
    ("allowFrom: [203.0.113.0/24]", "allowFrom is not available"),
    ("auth: {basic: {secret: x}}", "auth is not available"),
    ("cors: {origins: ['*']}", "cors is not available"),
    ("sticky: {enabled: true}", "sticky is not available"),
    ("annotations: {proxy-next-upstream: 'off'}", "where no one reads it"),
    ("annotations: {example.com/x: 'y'}", "Use commonAnnotations"),
    ("tls: {mode: dedicated}", "belongs to a listener"),
    ("tls: {mode: shared}", "belongs to a listener"),
    ("tls: {mode: none, redirect: always}", "Redirect there"),
    ("tls: {mode: passthrough}", "a TLSRoute"),
    ("protocol: GRPC", "Set appProtocol there"),
    ("class: private", "gateway.name"),
    ("paths: [{path: /x, regex: true, service: x, port: 1}]", "an expression"),
    ("paths: [{path: /x, service: x, port: http}]", "Write the Service's number"),
    ("redirects: [{from: /a, to: 'https://b.example.com/?c=1'}]", "a query"),
    ("externalBackends: [{name: far, host: legacy.example.net}]", "Write addresses"),
    ("externalBackends: [{name: far, addresses: [192.0.2.1], scheme: https}]", "always checks"),
];

#[test]
fn what_makes_no_sense_is_refused_with_a_sentence() {
    refuse("ingress", BASE, REFUSED);
}

#[test]
fn what_the_gateway_api_does_not_have_is_refused() {
    refuse(
        "ingress",
        "api: gateway\ndomains: [a.example.com]\ntls: {mode: default}\npaths: [{path: /, service: x, port: 80}]",
        REFUSED_THERE,
    );
}

#[test]
fn the_old_engine_takes_what_it_enforces() {
    let old = "engine: ingress-nginx\nacceptUnmaintained: true\n";
    for own in [
        "denylist-source-range: 203.0.113.0/24",
        "enable-modsecurity: 'true'",
        "session-cookie-hash: sha1",
        "satisfy: any",
    ] {
        let said = notes("ingress", &format!("{BASE}{old}annotations: {{{own}}}"));
        assert!(!said.contains("Warning"), "{own}: {said}");
    }
}

#[test]
fn a_route_of_the_gateway_api_does_the_same() {
    let values = "api: gateway\ngateway: {namespace: ingress}\ndomains: [a.example.com]\ntls: {mode: default}\npaths: [{path: /shop, service: shop, port: 80, stripPrefix: true}, \
                  {path: /x, exact: true, service: x, port: 80}]\nredirects: [{from: /old, to: 'https://new.example.com:8443/x', permanent: true, keepPath: true}]";
    let objects = render("ingress", values);
    assert_eq!(names(&objects, "HTTPRoute"), ["shop", "shop-to-https"]);
    assert_eq!(names(&objects, "Ingress"), Vec::<&str>::new());
    let route = &one(&objects, "HTTPRoute", "shop")["spec"];
    let parent = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public", "namespace": "ingress", "sectionName": "websecure"}]);
    assert_eq!(route["parentRefs"], parent);
    let rules = &route["rules"];
    assert_eq!(rules[0]["matches"], json!([{"path": {"type": "PathPrefix", "value": "/shop"}}]));
    assert_eq!(
        rules[0]["filters"][0]["urlRewrite"]["path"],
        json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"})
    );
    assert_eq!(
        rules[0]["backendRefs"],
        json!([{"group": "", "kind": "Service", "name": "shop", "port": 80, "weight": 1}])
    );
    assert_eq!(rules[1]["matches"][0]["path"]["type"], "Exact");
    let redirect = json!({"scheme": "https", "hostname": "new.example.com", "port": 8443, "statusCode": 301, "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"}});
    assert_eq!(rules[2]["filters"][0]["requestRedirect"], redirect);
    assert_eq!(one(&objects, "HTTPRoute", "shop-to-https")["spec"]["parentRefs"][0]["sectionName"], "web");
}
