//! Tries what our own authority signs and refuses.

use super::*;

fn local(principals: &[&str]) -> Local {
    let role = Role {
        name: "forward".into(),
        kind: Kind::User,
        principals: principals.iter().map(|name| (*name).to_owned()).collect(),
        ttl: Duration::from_secs(1800),
        max_ttl: Duration::from_secs(3600),
    };
    Local::generate(role).unwrap()
}

fn key() -> PublicKey {
    PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap().public_key().clone()
}

fn application(key: &PublicKey) -> Application<'_> {
    Application { key, role: "forward", kind: Kind::User, principals: vec![], ttl: None, extensions: None }
}

#[test]
fn who_asks_for_nothing_gets_the_roles_own() {
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let key = key();
    let certificate = local(&["*", "tunnel", "dev"]).issue(&application(&key), now).unwrap();
    assert_eq!(certificate.valid_principals(), ["tunnel"]);
    assert_eq!(certificate.valid_after(), 1_800_000_000 - 30);
    assert_eq!(certificate.valid_before(), 1_800_000_000 + 1800);
    assert!(certificate.extensions().contains_key(PERMIT_PORT_FORWARDING));
    assert!(certificate.key_id().starts_with("dev-forward-"));
}

#[test]
fn what_the_role_does_not_have_is_refused_in_vaults_words() {
    let key = key();
    let refused = |change: fn(&mut Application<'_>)| {
        let mut application = application(&key);
        change(&mut application);
        local(&["tunnel", "dev"]).issue(&application, SystemTime::now()).unwrap_err().to_string()
    };
    assert_eq!(refused(|it| it.role = "root"), "Unknown role: root");
    assert_eq!(refused(|it| it.kind = Kind::Host), "cert_type 'host' is not allowed by role");
    let root = refused(|it| it.principals = vec!["dev".into(), "root".into()]);
    assert_eq!(root, "root is not a valid value for valid_principals");
    let long = refused(|it| it.ttl = Some(Duration::from_secs(3601)));
    assert_eq!(long, "ttl is larger than maximum allowed 3600");
    let pty = refused(|it| it.extensions = Some([("permit-pty".to_owned(), String::new())].into()));
    assert_eq!(pty, "extensions [permit-pty] are not on allowed list");
}

#[test]
fn anybody_is_somebody_and_never_nobody() {
    let key = key();
    let local = local(&["*"]);
    let issue = |principals: &[&str]| {
        let principals = principals.iter().map(|name| (*name).to_owned()).collect();
        local.issue(&Application { principals, ..application(&key) }, SystemTime::now())
    };
    assert_eq!(issue(&["whoever"]).unwrap().valid_principals(), ["whoever"]);
    assert_eq!(issue(&[]), Err(Refusal::NoPrincipals));
    assert_eq!(issue(&[""]), Err(Refusal::Principal(String::new())));
    assert_eq!(issue(&["a"]).unwrap().serial(), 2);
}
