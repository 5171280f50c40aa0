//! Each way to log in, against a server that says what Vault says, and one that does not.

use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;

use super::*;
use crate::rogue::{Answer, Rogue};

const CANARY: &str = "canary-secret";

fn auth(token: &str, seconds: u64) -> Answer {
    let auth = json!({
        "client_token": token,
        "policies": ["default", "tunnel\u{1b}-user"],
        "lease_duration": seconds,
        "renewable": true,
    });
    Answer::json("200 OK", &json!({ "auth": auth, "data": null }))
}

fn looked_up(ttl: u64, expire_time: Option<&str>) -> Answer {
    let data = json!({
        "display_name": "oidc-me\u{1b}[2J",
        "policies": ["default"],
        "ttl": ttl,
        "expire_time": expire_time,
        "renewable": false,
    });
    Answer::json("200 OK", &json!({ "data": data }))
}

fn given(token: &str) -> GivenToken {
    GivenToken::new(Source::Given(token.into()))
}

fn lives(token: &Token) -> Duration {
    token.expires_at().unwrap().duration_since(SystemTime::now()).unwrap()
}

fn all() -> Vec<Box<dyn Login>> {
    let secret = || SecretString::from(CANARY);
    vec![
        Box::new(GivenToken::new(Source::Environment(secret()))),
        Box::new(AppRole::new("approle", "role", secret())),
        Box::new(Userpass::new("userpass", "alice", secret())),
    ]
}

#[tokio::test]
async fn approle_and_userpass_send_what_vault_wants() {
    let rogue = Rogue::new(auth("hvs.given", 60)).await;
    let [_, approle, userpass] = <[Box<dyn Login>; 3]>::try_from(all()).unwrap();
    let token = approle.login(&rogue.server()).await.unwrap();
    assert_eq!((token.display_name(), token.renewable()), ("approle", true));
    assert_eq!(token.policies(), ["default", "tunnel\\u{1b}-user"]);
    assert!(lives(&token) > Duration::from_secs(50) && lives(&token) <= Duration::from_secs(60));
    assert_eq!(userpass.login(&rogue.server()).await.unwrap().display_name(), "alice");
    let asked = rogue.asked();
    assert!(asked[0].starts_with("POST /v1/auth/approle/login HTTP"), "{}", asked[0]);
    assert!(
        asked[0].contains("\"role_id\":\"role\"") && asked[0].contains("\"secret_id\":\"canary-secret\"")
    );
    assert!(asked[1].starts_with("POST /v1/auth/userpass/login/alice HTTP"), "{}", asked[1]);
    assert!(asked[1].contains("\"password\":\"canary-secret\""));
    assert!(!asked.concat().to_ascii_lowercase().contains("x-vault-token"));
}

#[tokio::test]
async fn a_pods_token_is_read_at_each_login() {
    let rogue = Rogue::new(auth("hvs.given", 60)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let login = Kubernetes::new("clusters/one", "bastion", &path);
    for (written, reason) in
        [(None, "cannot be read"), (Some(&b"\n"[..]), "empty"), (Some(b"canary\xff"), "no token")]
    {
        if let Some(written) = written {
            std::fs::write(&path, written).unwrap();
        }
        let error = login.login(&rogue.server()).await.unwrap_err();
        assert!(matches!(error, LoginError::ServiceAccountToken { .. }), "{error:?}");
        let told = format!("{error} {error:?}");
        assert!(told.contains(reason) && !told.contains("canary"), "{told}");
        assert!(!error.is_transient());
    }
    for token in ["first", "second"] {
        std::fs::write(&path, format!("{token}\n")).unwrap();
        assert_eq!(login.login(&rogue.server()).await.unwrap().display_name(), "bastion");
        let asked = rogue.asked().pop().unwrap();
        assert!(asked.starts_with("POST /v1/auth/clusters/one/login HTTP"), "{asked}");
        assert!(
            asked.contains("\"role\":\"bastion\"") && asked.contains(&format!("\"jwt\":\"{token}\"")),
            "{asked}"
        );
    }
}

#[tokio::test]
async fn a_token_is_looked_up_and_says_who_it_is_and_until_when() {
    let rogue = Rogue::new(looked_up(60, Some("2026-11-21T17:44:24Z"))).await;
    let token = given(CANARY).login(&rogue.server()).await.unwrap();
    assert_eq!(token.display_name(), "oidc-me\\u{1b}[2J");
    assert!(lives(&token) <= Duration::from_secs(60));
    assert!(rogue.asked()[0].starts_with("GET /v1/auth/token/lookup-self HTTP"));

    let rogue = Rogue::new(looked_up(0, None)).await;
    assert_eq!(given(CANARY).login(&rogue.server()).await.unwrap().expires_at(), None);
    let rogue = Rogue::new(looked_up(0, Some("2026-11-21T17:44:24Z"))).await;
    assert!(given(CANARY).login(&rogue.server()).await.unwrap().expires_at().is_some());
}

#[tokio::test]
async fn a_renewal_moves_the_end_and_keeps_the_rest() {
    let rogue = Rogue::answering(|line| {
        if line.contains("lookup") { looked_up(5, Some("2026-11-21T17:44:24Z")) } else { auth("other", 600) }
    })
    .await;
    let token = given(CANARY).login(&rogue.server()).await.unwrap();
    let renewed = token.renew(&rogue.server()).await.unwrap();
    assert!(lives(&token) <= Duration::from_secs(5) && lives(&renewed) > Duration::from_secs(500));
    assert_eq!(renewed.display_name(), token.display_name());
    renewed.renew(&rogue.server()).await.unwrap();
    let last = rogue.asked().pop().unwrap().to_ascii_lowercase();
    assert!(last.starts_with("post /v1/auth/token/renew-self http"), "{last}");
    assert!(last.contains("x-vault-token: canary-secret"), "{last}");
}

#[tokio::test]
async fn a_refusal_is_told_from_a_failure() {
    for login in all() {
        let answer = |answer: Answer| async {
            let rogue = Rogue::new(answer).await;
            let error = login.login(&rogue.server()).await.unwrap_err();
            assert!(!format!("{error} {error:?}").contains(CANARY), "{error:?}");
            error
        };
        let denied = answer(Answer::json("403 Forbidden", &json!({ "errors": ["permission denied"] }))).await;
        assert!(matches!(denied, LoginError::TokenRefused { .. } | LoginError::Refused { .. }), "{denied:?}");
        assert!(!denied.is_transient());

        let sealed = Answer::json("503 Service Unavailable", &json!({ "errors": ["Vault is sealed"] }));
        let sealed = answer(sealed).await;
        assert!(matches!(sealed, LoginError::Server(Error::Sealed { .. })), "{sealed:?}");
        assert!(sealed.is_transient());

        let page = answer(Answer::reply("200 OK", "text/html", "<html>")).await;
        assert!(matches!(page, LoginError::Server(Error::NotJson { .. })), "{page:?}");
        let empty = answer(Answer::json("200 OK", &json!({}))).await;
        assert!(matches!(empty, LoginError::Server(Error::Unexpected { .. })), "{empty:?}");
    }
    let wrong = Answer::json("400 Bad Request", &json!({ "errors": ["invalid username or password"] }));
    let rogue = Rogue::new(wrong).await;
    let error = Userpass::new("userpass", "alice", CANARY.into()).login(&rogue.server()).await.unwrap_err();
    assert_eq!(error.to_string(), "Vault refuses the userpass login: invalid username or password");
}

#[tokio::test]
async fn a_second_factor_is_named() {
    let auth = json!({ "client_token": "", "mfa_requirement": { "mfa_request_id": "x" } });
    let rogue = Rogue::new(Answer::json("200 OK", &json!({ "auth": auth }))).await;
    let error = Userpass::new("userpass", "alice", CANARY.into()).login(&rogue.server()).await.unwrap_err();
    assert!(matches!(error, LoginError::SecondFactor { method: "userpass" }), "{error:?}");
}

#[test]
fn a_token_is_looked_for_where_the_command_looks() {
    let set = |set: &'static [(&str, &str)]| {
        move |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    let environment: &[_] = &[("VAULT_TOKEN", CANARY), ("HOME", "/home/me")];
    assert!(matches!(GivenToken::find(Some("x".into()), set(environment)).source(), Source::Given(_)));
    assert!(matches!(GivenToken::find(None, set(environment)).source(), Source::Environment(_)));
    let file = GivenToken::find(None, set(&[("VAULT_TOKEN", ""), ("HOME", "/home/me")]));
    assert_eq!(file.source().to_string(), "/home/me/.vault-token");
    let homeless = GivenToken::find(None, |_| None);
    assert_eq!(homeless.source().to_string(), "/.vault-token", "not the working directory");
}

#[tokio::test]
async fn the_token_file_is_read_at_each_login() {
    let rogue = Rogue::new(looked_up(60, None)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".vault-token");
    let login = GivenToken::new(Source::File(path.clone()));
    let missing = login.login(&rogue.server()).await.unwrap_err();
    assert!(matches!(missing, LoginError::NoToken { .. }), "{missing:?}");
    std::fs::write(&path, "\n").unwrap();
    assert!(matches!(login.login(&rogue.server()).await.unwrap_err(), LoginError::NoToken { .. }));
    for token in ["first", "second"] {
        std::fs::write(&path, format!("{token}\n")).unwrap();
        login.login(&rogue.server()).await.unwrap();
        assert!(rogue.asked().pop().unwrap().contains(&format!("x-vault-token: {token}\r\n")));
    }
    std::fs::write(&path, b"canary\xff").unwrap();
    let error = login.login(&rogue.server()).await.unwrap_err();
    assert!(matches!(error, LoginError::TokenFile { .. }), "{error:?}");
    std::fs::write(&path, "canary\u{7}token").unwrap();
    let error = login.login(&rogue.server()).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
}

/// An environment cannot change while a program runs; the file to which a person signs in again can.
#[tokio::test]
async fn a_token_of_the_environment_that_ended_has_a_successor_in_the_file() {
    let rogue =
        Rogue::answering(|_| Answer::json("403 Forbidden", &json!({ "errors": ["permission denied"] })))
            .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(".vault-token");
    std::fs::write(&file, "old").unwrap();
    let home = folder.path().to_str().unwrap().to_owned();
    let variable = |name: &str| match name {
        "HOME" => Some(home.clone()),
        "VAULT_TOKEN" => Some("ended".to_owned()),
        _ => None,
    };
    let login = GivenToken::find(None, variable);
    let mark = login.mark();
    assert!(matches!(login.login(&rogue.server()).await, Err(LoginError::TokenRefused { .. })));
    assert!(!rogue.asked().concat().contains("x-vault-token: old"), "what was there before means nothing");
    assert_eq!(login.mark(), mark);
    std::fs::File::create(&file).unwrap().set_modified(SystemTime::now() + Duration::from_secs(9)).unwrap();
    assert_ne!(login.mark(), mark);
    std::fs::write(&file, "new").unwrap();
    std::fs::File::options()
        .append(true)
        .open(&file)
        .unwrap()
        .set_modified(SystemTime::now() + Duration::from_secs(9))
        .unwrap();
    let error = login.login(&rogue.server()).await.unwrap_err();
    assert!(
        matches!(&error, LoginError::TokenRefused { origin, .. } if origin.ends_with(".vault-token")),
        "{error:?}"
    );
    assert!(rogue.asked().pop().unwrap().contains("x-vault-token: new\r\n"));
}

#[test]
fn secrets_do_not_print() {
    for login in all() {
        assert!(!format!("{login:?}").contains(CANARY), "{login:?}");
    }
}

#[test]
fn only_a_given_token_needs_a_person() {
    let unattended: Vec<_> = all().iter().map(|login| (login.name(), login.unattended())).collect();
    assert_eq!(unattended, [("token", false), ("approle", true), ("userpass", true)]);
}

#[test]
fn methods_are_named_as_in_vault() {
    for method in Method::ALL {
        assert_eq!(method.name().parse(), Ok(method));
    }
    assert_eq!("AppRole".parse::<Method>(), Err(UnknownMethod));
}
