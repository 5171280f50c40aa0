//! Tries the HTTP client against a server that misbehaves.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::rogue::{Answer, Rogue};

const TOKEN: &str = "hvs.canary-token";

async fn ask(rogue: &Rogue) -> Result<Value, Error> {
    let path = VaultPath::new("some/where");
    rogue.server().http().call(Method::GET, &path, Some(&TOKEN.into()), None).await
}

/// What one answer leads to. No error may show the token.
async fn answer(answer: Answer) -> Error {
    let error = ask(&Rogue::new(answer).await).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    error
}

fn head(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n")
}

#[tokio::test]
async fn every_request_carries_what_vault_wants_and_the_token() {
    let rogue = Rogue::new(Answer::json("200 OK", &json!({ "a": 1 }))).await;
    assert_eq!(ask(&rogue).await, Ok(json!({ "a": 1 })));
    let asked = rogue.asked().concat().to_ascii_lowercase();
    assert!(asked.starts_with("get /v1/some/where http/1.1\r\n"), "{asked}");
    assert!(asked.contains("\r\nx-vault-token: hvs.canary-token\r\n"));
    assert!(asked.contains("\r\nx-vault-request: true\r\n"));
    assert!(!asked.contains("namespace"));
}

#[tokio::test]
async fn a_namespace_goes_along_and_a_path_in_the_address_stays() {
    let rogue = Rogue::new(Answer::json("200 OK", &json!({}))).await;
    let settings = crate::Settings {
        address: Some(format!("{}/behind/", rogue.address())),
        namespace: Some("team/one".into()),
        ..crate::Settings::default()
    };
    let server = crate::Server::new(&settings).unwrap();
    let path = VaultPath::new("/ssh/").join("sign").name("a b/../c?d#e");
    let _: Value = server.http().call(Method::GET, &path, None, None).await.unwrap();
    let asked = rogue.asked().concat();
    assert!(asked.starts_with("GET /behind/v1/ssh/sign/a%20b%2F..%2Fc%3Fd%23e HTTP/1.1\r\n"), "{asked}");
    assert!(asked.to_ascii_lowercase().contains("\r\nx-vault-namespace: team/one\r\n"));
    assert!(!asked.to_ascii_lowercase().contains("x-vault-token"));
}

#[tokio::test]
async fn a_path_cannot_climb() {
    let rogue = Rogue::new(Answer::json("200 OK", &json!({}))).await;
    for path in
        [VaultPath::new("ssh/../sys"), VaultPath::new("ssh").name(".."), VaultPath::new("ssh").name("")]
    {
        let answer = rogue.server().http().call::<Value>(Method::GET, &path, None, None).await;
        assert!(matches!(answer, Err(Error::Unexpected { .. })), "{answer:?}");
    }
    assert!(rogue.asked().is_empty());
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_token_stays() {
    for status in
        ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        let elsewhere = Rogue::new(Answer::json("200 OK", &json!({}))).await;
        for to in [
            format!("{}/v1/some/where", elsewhere.address()),
            elsewhere.address().replace("127.0.0.1", "localhost"),
            format!("//{}", elsewhere.address().trim_start_matches("http://")),
        ] {
            let raw = format!("HTTP/1.1 {status}\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
            let error = answer(Answer::Raw(raw)).await;
            assert!(matches!(&error, Error::Redirected { to: told, .. } if *told == to), "{error:?}");
            assert!(!error.is_transient());
        }
        assert!(elsewhere.asked().is_empty(), "{status} was followed");
    }
}

#[tokio::test]
async fn what_is_not_json_is_named() {
    let page = "<!DOCTYPE html><title>Please log in</title>";
    for (status, body, expected) in [
        ("200 OK", page, "a web page"),
        ("403 Forbidden", page, "a web page"),
        ("200 OK", "", "an empty reply"),
        ("200 OK", "{\"token\": \"hvs.canary\" oops", "JSON that cannot be read"),
        ("400 Bad Request", "Client sent HTTP\u{1b}[2J", "it begins with: Client sent HTTP\\u{1b}[2J"),
    ] {
        let error = answer(Answer::reply(status, "text/html", body)).await;
        assert!(matches!(&error, Error::NotJson { what, .. } if what == expected), "{error:?}");
    }
}

#[tokio::test]
async fn json_that_ends_early_or_has_other_fields_is_no_answer() {
    let error = answer(Answer::reply("200 OK", "application/json", "{\"data\": {\"a\": ")).await;
    assert!(matches!(error, Error::Unexpected { .. }), "{error:?}");

    let rogue = Rogue::new(Answer::json("200 OK", &json!({ "number": "hvs.canary-token" }))).await;
    #[derive(Debug, Deserialize)]
    struct Wanted {
        #[expect(dead_code, reason = "never read, since it is never right")]
        number: u64,
    }
    let path = VaultPath::new("some/where");
    let error = rogue.server().http().call::<Wanted>(Method::GET, &path, None, None).await.unwrap_err();
    assert!(matches!(error, Error::Unexpected { .. }), "{error:?}");
    assert!(!error.to_string().contains("canary"), "{error}");
}

#[tokio::test]
async fn a_connection_that_is_lost_is_told_from_one_that_never_was() {
    let error = answer(Answer::Raw(format!("{}Content-Length: 100\r\n\r\n{{", head("200 OK")))).await;
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
    let error = answer(Answer::Raw(String::new())).await;
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");

    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let settings = crate::Settings { address: Some(format!("http://{free}")), ..crate::Settings::default() };
    let error = crate::Server::new(&settings).unwrap().health().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_server_without_tls_is_told_from_no_server() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Kept open until the client is gone: a reset would take the reply away from it.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let settings = crate::Settings { address: Some(address), ..crate::Settings::default() };
    let error = crate::Server::new(&settings).unwrap().health().await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_reply_has_a_bound_announced_or_not() {
    for length in ["", "Content-Length: 104857600\r\n"] {
        let head = format!("{}{length}\r\n", head("200 OK"));
        let rogue = Rogue::new(Answer::Endless(head)).await;
        let error = ask(&rogue).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
        // What the sockets' buffers hold comes on top of what was read.
        assert!(rogue.written() < 32 * 1024 * 1024, "{} bytes were taken", rogue.written());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_never_ends_ends_at_the_deadline() {
    for never in [Answer::Silent, Answer::Slow(format!("{}\r\n{{", head("200 OK")))] {
        let begun = tokio::time::Instant::now();
        let error = answer(never).await;
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        assert!(begun.elapsed() <= TIME_LIMIT + Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(error.is_transient());
    }
}

#[tokio::test]
async fn each_status_has_its_meaning() {
    let errors = |words: &str| json!({ "errors": [words] });
    let place = || "some/where".to_owned();
    let words = |words: &str| Errors::new(&[words.to_owned()]);
    for (status, body, expected) in [
        ("400 Bad Request", errors("no"), Error::BadRequest { path: place(), errors: words("no") }),
        ("403 Forbidden", errors("no"), Error::Denied { path: place(), errors: words("no") }),
        ("404 Not Found", errors("no"), Error::NotFound { path: place(), errors: words("no") }),
        (
            "500 Internal Server Error",
            errors("no"),
            Error::ServerError { path: place(), status: 500, errors: words("no") },
        ),
    ] {
        assert_eq!(answer(Answer::json(status, &body)).await, expected);
    }
    let told = |error: Error| match error {
        Error::Sealed { .. } => "sealed",
        Error::Standby { .. } => "standby",
        Error::Uninitialized { .. } => "uninitialized",
        Error::ServerError { .. } => "server error",
        Error::Status { .. } => "status",
        Error::Unexpected { .. } => "unexpected",
        other => panic!("{other:?}"),
    };
    for (status, body, expected) in [
        ("503 Service Unavailable", errors("Vault is sealed"), "sealed"),
        (
            "503 Service Unavailable",
            json!({ "initialized": true, "sealed": true, "standby": true }),
            "sealed",
        ),
        ("501 Not Implemented", json!({ "initialized": false, "sealed": true }), "uninitialized"),
        ("473 Standby", json!({ "initialized": true, "sealed": false, "standby": true }), "standby"),
        ("500 Error", errors("local node not active but active cluster node not found"), "standby"),
        ("503 Service Unavailable", errors("something else"), "server error"),
        ("418 Teapot", errors("short and stout"), "status"),
    ] {
        assert_eq!(told(answer(Answer::json(status, &body)).await), expected, "{status} {body}");
    }
    let balancer = Answer::reply("502 Bad Gateway", "text/html", "<html>no server there</html>");
    assert!(answer(balancer).await.is_transient());
}

#[tokio::test]
async fn a_quota_says_how_long_to_wait_within_reason() {
    for (header, expected) in [
        ("Retry-After: 7\r\n", Some(Duration::from_secs(7))),
        ("Retry-After: 99999999999\r\n", Some(LONGEST_RETRY_AFTER)),
        ("Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n", None),
        ("", None),
    ] {
        let raw = format!("{}{header}Content-Length: 2\r\n\r\n{{}}", head("429 Too Many Requests"));
        let error = answer(Answer::Raw(raw)).await;
        assert_eq!(error, Error::RateLimited { retry_after: expected });
        assert!(error.is_transient());
    }
}

#[tokio::test]
async fn the_servers_words_are_escaped_and_cut() {
    let many: Vec<String> = (0..1000).map(|n| format!("\u{1b}]0;{n}\u{7}{}", "x".repeat(1000))).collect();
    let error = answer(Answer::json("400 Bad Request", &json!({ "errors": many }))).await;
    let text = error.to_string();
    assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text}");
    assert!(text.contains("\\u{1b}]0;0\\u{7}"), "{text}");
    assert!(text.len() < 2000, "{}", text.len());
}
