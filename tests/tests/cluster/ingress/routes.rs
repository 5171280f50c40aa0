//! Routes lead each request to its service with the right path, by both APIs the same.

use serde_json::json;
use tests::cluster::traefik::Class;

use super::fixture::{APIS, Api, HTTP, shared};

#[test]
fn a_path_is_itself_and_what_is_below_it() {
    let fixture = shared();
    let path = |path: &str| json!({"path": path, "service": "blog", "port": HTTP});
    let with = |mut path: serde_json::Value, more: serde_json::Value| {
        path.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        path
    };
    let paths = json!([
        with(path("/shop"), json!({"stripPrefix": true, "service": "shop"})),
        with(path("/old"), json!({"rewrite": "/new"})),
        with(path("/one"), json!({"exact": true, "rewrite": "/only"})),
        with(path("/health"), json!({"exact": true})),
        path("/v1/items:batch"),
        path("/v1.0"),
        path("/plain"),
    ]);
    // The path that is asked for, and what a service sees of it; none: it reaches none.
    let table: &[(&str, Option<(&str, &str)>)] = &[
        ("/shop", Some(("shop", "/"))),
        ("/shop/", Some(("shop", "/"))),
        ("/shop/a%20b?x=1", Some(("shop", "/a%20b?x=1"))),
        ("/shopping", None),
        ("/SHOP", None),
        ("/old/a?x=1", Some(("blog", "/new/a?x=1"))),
        ("/older", None),
        ("/one", Some(("blog", "/only"))),
        ("/one/more", None),
        ("/health", Some(("blog", "/health"))),
        ("/health/more", None),
        ("/v1/items:batch", Some(("blog", "/v1/items:batch"))),
        ("/v1.0", Some(("blog", "/v1.0"))),
        ("/v1x0", None),
        ("/plain", Some(("blog", "/plain"))),
        ("/plain/", Some(("blog", "/plain/"))),
        ("/plain/a/b?c=d&e=%2F", Some(("blog", "/plain/a/b?c=d&e=%2F"))),
        ("/", None),
    ];
    for api in APIS {
        let host = fixture.serve(api, "paths", json!({"paths": paths}));
        for path in ["/shop", "/old", "/one", "/plain"] {
            fixture.until_plain(&host, path, 200);
        }
        for (path, expected) in table {
            let answer = fixture.http(&host, path).send().unwrap();
            match expected {
                Some((service, seen)) => {
                    let saw = answer.seen();
                    assert_eq!((answer.status, saw.path.as_str()), (200, *seen), "{api:?}: {path}");
                    assert!(saw.server.starts_with(&format!("{service}-")), "{api:?}: {path}: {saw:?}");
                    assert_eq!(saw.host, host, "{api:?}: {path}");
                }
                None => assert_eq!(answer.status, 404, "{api:?}: {path}: {answer:?}"),
            }
        }
        // A host that is not named is not served.
        assert_eq!(fixture.http("other.example.com", "/plain").send().unwrap().status, 404);
    }
}

#[test]
fn an_expression_is_a_path_and_its_groups_stand_in_the_rewrite() {
    let fixture = shared();
    let path = json!({"path": "/user/([0-9]+)/(.*)$", "regex": true, "rewrite": "/$2/of/$1", "service": "blog", "port": HTTP});
    let host = fixture.serve(Api::Ingress, "expressions", json!({"paths": [path]}));
    assert_eq!(fixture.until_plain(&host, "/user/7/a", 200).seen().path, "/a/of/7");
    assert_eq!(fixture.http(&host, "/user/x/a").send().unwrap().status, 404);
}

#[test]
fn a_release_answers_the_same_beside_one_that_rewrites() {
    let fixture = shared();
    let values = |paths: serde_json::Value| {
        json!({
            "domains": ["both.example.com"], "paths": [paths], "tls": {"mode": "none"},
            "classes": {"public": fixture.controllers.class(Class::Public)},
        })
    };
    let api = values(json!({"path": "/api", "service": "blog", "port": HTTP}));
    fixture.other.helm("install", "api", "ingress", &api);
    let check = || {
        for (path, status) in
            [("/api", 200), ("/api/x", 200), ("/apix", 404), ("/api-internal", 404), ("/API", 404)]
        {
            let answer = fixture.http("both.example.com", path).send().unwrap();
            assert_eq!(answer.status, status, "{path}: {answer:?}");
            if status == 200 {
                assert_eq!(answer.seen().path, path);
            }
        }
    };
    fixture.until_plain("both.example.com", "/api", 200);
    check();
    let shop = values(json!({"path": "/shop", "service": "shop", "port": HTTP, "stripPrefix": true}));
    fixture.web.helm("install", "both", "ingress", &shop);
    fixture.until_plain("both.example.com", "/shop", 200);
    check();
    fixture.cluster.helm(&["uninstall", "both", "--namespace", fixture.web.name()]);
    fixture.until_plain("both.example.com", "/shop", 404);
    check();
}

#[test]
fn a_redirect_keeps_the_path_and_the_query_if_it_is_told_to() {
    let fixture = shared();
    let redirects = json!([
        {"from": "/old", "to": "https://new.example.com/x", "permanent": true, "keepPath": true},
        {"from": "/gone", "to": "https://new.example.com/y"},
        {"from": "/moved", "to": "http://new.example.com:8080/", "permanent": true},
    ]);
    let table: &[(&str, u16, &str)] = &[
        ("/old/a?b=1", 301, "https://new.example.com/x/a?b=1"),
        ("/old?b=1", 301, "https://new.example.com/x?b=1"),
        ("/old", 301, "https://new.example.com/x"),
        ("/gone", 302, "https://new.example.com/y"),
        ("/gone/a?b=1", 302, "https://new.example.com/y?b=1"),
        ("/moved", 301, "http://new.example.com:8080/"),
        ("/older", 200, ""),
        ("/other", 200, ""),
    ];
    for api in APIS {
        let host = fixture.serve(api, "redirects", json!({"redirects": redirects}));
        for path in ["/other", "/old", "/gone", "/moved"] {
            let expected = table.iter().find(|row| row.0 == path).unwrap();
            fixture.until_plain(&host, path, expected.1);
        }
        for (path, status, location) in table {
            let answer = fixture.http(&host, path).send().unwrap();
            let location = Some(*location).filter(|location| !location.is_empty());
            assert_eq!((answer.status, answer.header("location")), (*status, location), "{api:?}: {path}");
        }
    }
    // With nothing else.
    let everything = json!([{"from": "/", "to": "https://new.example.com", "keepPath": true}]);
    let host = fixture.serve(Api::Ingress, "everything", json!({"paths": [], "redirects": everything}));
    let answer = fixture.until_plain(&host, "/a/b?c=d", 302);
    assert_eq!(answer.header("location"), Some("https://new.example.com/a/b?c=d"));
}

#[test]
fn each_class_serves_its_own_and_says_where() {
    let fixture = shared();
    let addresses = [Class::Public, Class::Private].map(|class| {
        let service = fixture.controllers.namespace().get(&["service", class.name()]);
        (class, service["spec"]["clusterIP"].clone())
    });
    for (class, address) in &addresses {
        let host = fixture.serve(Api::Ingress, class.name(), json!({"class": class.name()}));
        let ask = |class: Class| tests::web::Request::new(fixture.controllers.door(class, false), &host, "/");
        fixture.until(&ask(*class), 200);
        let other = if *class == Class::Public { Class::Private } else { Class::Public };
        assert_eq!(ask(other).send().unwrap().status, 404, "{class:?}");
        let name = format!("{}-ingress", class.name());
        tests::wait::until_true(
            "the Ingress says where it is reached",
            std::time::Duration::from_secs(30),
            || {
                let status =
                    fixture.web.get(&["ingress", &name])["status"]["loadBalancer"]["ingress"][0]["ip"]
                        .clone();
                status == *address
            },
        );
    }
}
