//! The rule as a table: every cure in every standing, and every failure with its cure.

use vault_signer::Errors;

use super::Verdict::{AwaitsSignIn, Ends, Retries};
use super::*;

const ALL: [Cure; 6] = [Cure::Time, Cure::Way, Cure::Clock, Cure::Keeper, Cure::SignIn, Cure::Change];

#[test]
fn what_may_pass_ends_nothing() {
    let standing = |once, was_ready, carrier_lives| Standing { once, was_ready, carrier_lives };
    for (standing, expected) in [
        // Time, Way, Clock, Keeper, SignIn, Change
        (standing(false, false, false), [Retries, Ends, Ends, Ends, Ends, Ends]),
        (standing(false, true, false), [Retries, Retries, Retries, Retries, AwaitsSignIn, Ends]),
        (standing(true, false, false), [Ends; 6]),
        (standing(true, true, false), [Ends; 6]),
    ] {
        assert_eq!(ALL.map(|cure| judge(cure, standing)), expected, "{standing:?}");
    }
    // While bytes flow, nothing ends it.
    for (once, was_ready) in [(false, false), (false, true), (true, false), (true, true)] {
        let judged = ALL.map(|cure| judge(cure, standing(once, was_ready, true)));
        assert_eq!(judged, [Retries, Retries, Retries, Retries, AwaitsSignIn, Retries]);
    }
}

fn text() -> String {
    String::new()
}

fn errors() -> Errors {
    Errors::default()
}

/// Every answer of Vault's address, and of what may stand in front of it.
fn of_servers() -> Vec<(Error, Cure)> {
    vec![
        (Error::Unreachable { server: text(), reason: text() }, Cure::Time),
        (Error::TimedOut { server: text() }, Cure::Time),
        (Error::Tls { server: text(), reason: text() }, Cure::Way),
        (Error::Redirected { server: text(), to: text() }, Cure::Way),
        (Error::Sealed { server: text() }, Cure::Time),
        (Error::Uninitialized { server: text() }, Cure::Keeper),
        (Error::Standby { server: text() }, Cure::Time),
        (Error::BadRequest { path: text(), errors: errors() }, Cure::Keeper),
        (Error::Denied { path: text(), errors: errors() }, Cure::Keeper),
        (Error::NotFound { path: text(), errors: errors() }, Cure::Keeper),
        (Error::RateLimited { retry_after: None }, Cure::Time),
        (Error::ServerError { path: text(), status: 500, errors: errors() }, Cure::Time),
        (Error::Status { server: text(), path: text(), status: 412 }, Cure::Way),
        (Error::NotJson { server: text(), path: text().into(), status: 511, what: text() }, Cure::Way),
        (Error::Broken { server: text() }, Cure::Time),
        (Error::TooLarge { server: text(), path: text() }, Cure::Way),
        (Error::Unexpected { path: text(), what: text() }, Cure::Way),
    ]
}

#[test]
fn each_failure_of_vault_has_its_cure() {
    for (error, cure) in of_servers() {
        assert_eq!(Cure::of_server(&error), cure, "{error:?}");
        assert_eq!(Cure::of_signing(&SignError::Server(error.clone()), false), cure, "{error:?}");
        assert_eq!(Cure::of_login(&LoginError::Server(error.clone())), cure, "{error:?}");
        // What Vault itself calls passing passes here too, and nothing else does before a tunnel was ready.
        assert_eq!(cure.is_time(), error.is_transient(), "{error:?}");
    }
}

#[test]
fn each_failure_of_a_login_has_its_cure() {
    let denied = || Error::Denied { path: text(), errors: errors() };
    let bad = || Error::BadRequest { path: text(), errors: errors() };
    for (error, cure) in [
        (LoginError::NoToken { file: text() }, Cure::SignIn),
        (LoginError::TokenFile { path: "x".into(), reason: text() }, Cure::SignIn),
        (LoginError::TokenRefused { origin: text(), source: denied() }, Cure::SignIn),
        (LoginError::ServiceAccountToken { path: "x".into(), reason: text() }, Cure::Keeper),
        (LoginError::Refused { method: "approle", reason: text(), source: denied() }, Cure::Keeper),
        (LoginError::Refused { method: "userpass", reason: text(), source: bad() }, Cure::Change),
        (LoginError::SecondFactor { method: "userpass" }, Cure::Change),
    ] {
        assert_eq!(Cure::of_login(&error), cure, "{error:?}");
    }
}

#[test]
fn each_failure_of_a_signature_has_its_cure() {
    let second = Duration::from_secs(1);
    let too_long = || SignError::Mismatch(Mismatch::TooLong { asked: second, excess: second });
    for (error, clock_is_off, cure) in [
        (SignError::Refused { role: text(), reason: text() }, false, Cure::Keeper),
        (SignError::Mismatch(Mismatch::NotYetValid { wait: second }), false, Cure::Clock),
        (SignError::Mismatch(Mismatch::Expired { ago: second }), false, Cure::Clock),
        (too_long(), true, Cure::Clock),
        (too_long(), false, Cure::Keeper),
        (SignError::Mismatch(Mismatch::Signature), true, Cure::Keeper),
        (SignError::Key(ssh_key_error()), false, Cure::Change),
    ] {
        assert_eq!(Cure::of_signing(&error, clock_is_off), cure, "{error:?}");
    }
}

fn ssh_key_error() -> russh::keys::ssh_key::Error {
    russh::keys::ssh_key::Error::Crypto
}

#[test]
fn each_refusal_of_a_bastion_has_its_cure() {
    let told = |why: &str| Refusal::Certificate(Some(why.to_owned()));
    for (refusal, cure) in [
        (Refusal::Lost(text()), Cure::Time),
        (Refusal::NotStrict, Cure::Way),
        (Refusal::Algorithms(text()), Cure::Way),
        (Refusal::Impostor(Impostor::OtherKey { presented: text() }), Cure::Way),
        (Refusal::Impostor(Impostor::OtherAuthority { presented: text() }), Cure::Way),
        (Refusal::Impostor(Impostor::BareKey { presented: text() }), Cure::Way),
        (Refusal::Impostor(Impostor::Expired), Cure::Way),
        (Refusal::Impostor(Impostor::NotYet { wait: Duration::from_secs(45) }), Cure::Time),
        (Refusal::Impostor(Impostor::NotYet { wait: Duration::from_secs(7200) }), Cure::Clock),
        (Refusal::Certificate(None), Cure::Keeper),
        (told("audit_stopped: the bastion cannot write its audit records"), Cure::Time),
        (told("too_many_connections: close one"), Cure::Time),
        (told("shutdown: connect again"), Cure::Time),
        (told("not_yet_valid: x"), Cure::Clock),
        (told("source_address: x"), Cure::Way),
        (told("unknown_authority: x"), Cure::Keeper),
        (told("expired: x"), Cure::Keeper),
        (told("a word of the future: x"), Cure::Keeper),
        (told("no code at all"), Cure::Keeper),
        (told("key_id_revoked: x"), Cure::Change),
        (told("unknown_user: x"), Cure::Change),
    ] {
        assert_eq!(Cure::of_bastion(&refusal, false), cure, "{refusal:?}");
        let another = match refusal {
            Refusal::Certificate(_) => Cure::Time,
            _ => cure,
        };
        assert_eq!(Cure::of_bastion(&refusal, true), another, "{refusal:?}, of one that was taken before");
    }
}
