//! Asking Vault for a certificate, and getting something else.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::*;
use crate::{
    certificate::Mismatch,
    credential::Credential,
    login::{GivenToken, Login as _, Source},
    request::Kind,
    rogue::{Answer, Rogue},
    signer::local::{Local, Role},
};

const LOOKED_UP: &str = r#"{"data": {"display_name": "me", "ttl": 60, "expire_time": "soon"}}"#;

fn local(kind: Kind) -> Local {
    let hour = Duration::from_secs(3600);
    let role = Role { name: "forward".into(), kind, principals: vec!["*".into()], ttl: hour, max_ttl: hour };
    Local::generate(role).unwrap()
}

fn request() -> Request {
    Request::forwarding("forward", vec!["tunnel".into(), "dev".into()], Duration::from_secs(600))
}

/// A Vault whose authority is `authority`, and that answers every request to sign with `signed`.
async fn vault(authority: &Local, signed: Answer) -> (Rogue, Vault) {
    let key = authority.public_key().to_openssh().unwrap();
    let rogue = Rogue::answering(move |line| {
        if line.contains("lookup-self") {
            Answer::reply("200 OK", "application/json", LOOKED_UP)
        } else if line.contains("public_key") {
            Answer::reply("200 OK", "text/plain", &key)
        } else {
            signed.clone()
        }
    })
    .await;
    let token = GivenToken::new(Source::Given("canary".into())).login(&rogue.server()).await.unwrap();
    let vault = Vault::new(rogue.server(), token, "ssh");
    (rogue, vault)
}

fn signed(text: &str) -> Answer {
    Answer::json("200 OK", &json!({ "data": { "serial_number": "1", "signed_key": text } }))
}

#[tokio::test]
async fn the_request_says_what_is_asked_for() {
    let authority = local(Kind::User);
    let (rogue, vault) = vault(&authority, signed("nothing")).await;
    let refused = Credential::generate(&vault, &request()).await.unwrap_err();
    assert_eq!(refused, SignError::Mismatch(Mismatch::Malformed));
    let asked = rogue.asked();
    let sign = asked.iter().find(|text| text.starts_with("POST /v1/ssh/sign/forward HTTP")).unwrap();
    let body: Value = serde_json::from_str(sign.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert!(body["public_key"].as_str().unwrap().starts_with("ssh-ed25519 "));
    assert_eq!(body["cert_type"], "user");
    assert_eq!(body["ttl"], 600);
    assert_eq!(body["valid_principals"], "tunnel,dev");
    assert_eq!(body["extensions"], json!({ "permit-port-forwarding": "" }));
    let public = asked.iter().find(|text| text.contains("public_key HTTP")).unwrap();
    assert!(!public.contains("canary"), "the public key is public: {public}");
}

#[tokio::test]
async fn what_comes_back_is_checked_against_the_key_that_was_sent_and_the_authority() {
    let (users, hosts, stranger) = (local(Kind::User), local(Kind::Host), local(Kind::User));
    let other = Arc::new(Credential::generate(&users, &request()).await.unwrap());
    let text = other.certificate().to_openssh().unwrap();
    let key = other.private_key().clone();
    let ask = async |authority: &Local, text: &str, request: &Request| {
        let (_rogue, vault) = vault(authority, signed(text)).await;
        Credential::for_key(&vault, key.clone(), request).await.map(drop)
    };
    assert_eq!(ask(&users, &text, &request()).await, Ok(()));
    assert!(matches!(
        ask(&stranger, &text, &request()).await,
        Err(SignError::Mismatch(Mismatch::Authority { .. }))
    ));
    let short = Request { ttl: Duration::from_secs(60), ..request() };
    assert!(matches!(ask(&users, &text, &short).await, Err(SignError::Mismatch(Mismatch::TooLong { .. }))));
    let host = Request::host("forward", vec!["tunnel".into(), "dev".into()], Duration::from_secs(600));
    assert!(matches!(ask(&users, &text, &host).await, Err(SignError::Mismatch(Mismatch::Kind { .. }))));
    assert!(Credential::for_key(&hosts, key.clone(), &host).await.is_ok());

    let (_rogue, vault) = vault(&users, signed(&text)).await;
    let error = Credential::generate(&vault, &request()).await.unwrap_err();
    assert!(matches!(error, SignError::Mismatch(Mismatch::Key { .. })), "{error:?}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn an_answer_without_a_certificate_is_no_answer() {
    let authority = local(Kind::User);
    for answer in [
        Answer::json("200 OK", &json!({ "data": { "serial_number": "1" } })),
        Answer::json("200 OK", &json!({ "data": null })),
        Answer::json("200 OK", &json!({ "data": { "signed_key": 7 } })),
    ] {
        let (_rogue, vault) = vault(&authority, answer).await;
        let error = Credential::generate(&vault, &request()).await.unwrap_err();
        assert!(matches!(error, SignError::Server(Error::Unexpected { .. })), "{error:?}");
    }
}

#[tokio::test]
async fn a_refusal_says_what_would_help() {
    let authority = local(Kind::User);
    for (words, hint) in [
        ("Unknown role: forward", "bootstrap"),
        ("ttl is larger than maximum allowed 60", "shorter ttl"),
        ("dev is not a valid value for valid_principals", "allowed_users"),
        ("extensions [permit-port-forwarding] are not on allowed list", "allowed_extensions"),
        ("whatever\u{1b}", "whatever\\u{1b}"),
    ] {
        let answer = Answer::json("400 Bad Request", &json!({ "errors": [words] }));
        let (_rogue, vault) = vault(&authority, answer).await;
        let error = Credential::generate(&vault, &request()).await.unwrap_err();
        assert!(matches!(error, SignError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[tokio::test]
async fn several_authorities_are_read_and_what_is_none_is_refused() {
    let (one, two) = (local(Kind::User), local(Kind::User));
    let line = |local: &Local| local.public_key().to_openssh().unwrap();
    let read = async |text: &str| {
        let rogue = Rogue::new(Answer::reply("200 OK", "text/plain", text)).await;
        rogue.server().authorities("ssh").await
    };
    let both = read(&format!("{}\n\n{}\n", line(&one), line(&two))).await.unwrap();
    assert_eq!(both, [one.public_key().clone(), two.public_key().clone()]);
    assert!(matches!(read("").await, Err(Error::Unexpected { .. })));
    assert!(matches!(read("ssh-ed25519 AAAA").await, Err(Error::Unexpected { .. })));
    assert!(matches!(read("<html>").await, Err(Error::NotJson { .. })));
    let many = format!("{}\n", line(&one)).repeat(1000);
    assert_eq!(read(&many).await.unwrap().len(), 16);
}
