//! Leases, against a server that says what Vault says, and one that does not.

use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::*;
use crate::rogue::{Answer, Rogue};

async fn token(rogue: &Rogue) -> Token {
    Token::look_up(&rogue.server(), "canary-token".into()).await.unwrap()
}

/// Answers as Vault does, with `made` at the database role.
async fn rogue(made: Answer) -> Rogue {
    Rogue::answering(move |line| {
        if line.contains("lookup-self") {
            Answer::json("200 OK", &json!({ "data": { "display_name": "me", "ttl": 60 } }))
        } else if line.contains("leases/renew") {
            let renewed =
                json!({ "lease_id": "database/creds/reader/1", "lease_duration": 120, "renewable": true });
            Answer::json("200 OK", &renewed)
        } else if line.contains("leases/revoke") {
            Answer::Raw("HTTP/1.1 204 No Content\r\n\r\n".into())
        } else {
            made.clone()
        }
    })
    .await
}

fn made() -> Answer {
    Answer::json(
        "200 OK",
        &json!({
            "lease_id": "database/creds/reader/1",
            "lease_duration": 60,
            "renewable": true,
            "data": { "username": "v-reader", "password": "canary-password" },
        }),
    )
}

fn body(request: &str) -> Value {
    serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn a_lease_is_taken_renewed_and_given_back() {
    let rogue = rogue(made()).await;
    let (server, token) = (rogue.server(), token(&rogue).await);
    let credentials = credentials(&server, &token, "database/creds/reader").await.unwrap();
    assert_eq!(credentials.username(), "v-reader");
    assert_eq!(credentials.password().expose_secret(), "canary-password");
    let lease = credentials.lease();
    assert!(lease.renewable() && lease.duration() == Duration::from_secs(60));
    assert!(!format!("{credentials:?}").contains("canary"), "{credentials:?}");

    let renewed = renew(&server, &token, lease, Duration::from_secs(120)).await.unwrap();
    assert!(renewed.expires_at() > lease.expires_at());
    revoke(&server, &token, &renewed).await.unwrap();
    let asked = rogue.asked();
    assert!(asked[1].starts_with("GET /v1/database/creds/reader HTTP"), "{}", asked[1]);
    assert!(asked[2].starts_with("POST /v1/sys/leases/renew HTTP"), "{}", asked[2]);
    assert_eq!(body(&asked[2]), json!({ "lease_id": "database/creds/reader/1", "increment": 120 }));
    assert!(asked[3].starts_with("POST /v1/sys/leases/revoke HTTP"), "{}", asked[3]);
    assert_eq!(body(&asked[3]), json!({ "lease_id": "database/creds/reader/1", "sync": true }));
}

#[tokio::test]
async fn what_is_no_lease_is_refused() {
    let data = json!({ "username": "v-reader", "password": "canary-password" });
    for answer in [
        json!({ "lease_id": "", "data": data }),
        json!({ "lease_id": "x", "lease_duration": u64::MAX, "data": data }),
        json!({ "lease_id": "x", "data": null }),
        json!({ "lease_id": "x", "data": { "username": "v-reader" } }),
        json!({ "lease_id": "x", "data": { "username": "v-reader", "password": ["canary-password"] } }),
    ] {
        let rogue = rogue(Answer::json("200 OK", &answer)).await;
        let error =
            credentials(&rogue.server(), &token(&rogue).await, "database/creds/reader").await.unwrap_err();
        assert!(matches!(error, Error::Unexpected { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
}
