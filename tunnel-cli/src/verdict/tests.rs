//! The rule as a table: every retry in every standing, and every failure with its retry.

use vault_signer::Errors;

use super::{
    Verdict::{AwaitsSignIn, Ends, Retries},
    *,
};

const ALL: [Retry; 6] = [
    Retry::Soon,
    Retry::OnAnotherRoute,
    Retry::AfterClockIsSet,
    Retry::AfterOperator,
    Retry::AfterSignIn,
    Retry::Never,
];

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
        assert_eq!(ALL.map(|retry| judge(retry, standing)), expected, "{standing:?}");
    }
    // While bytes flow, nothing ends it.
    for (once, was_ready) in [(false, false), (false, true), (true, false), (true, true)] {
        let judged = ALL.map(|retry| judge(retry, standing(once, was_ready, true)));
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
fn of_servers() -> Vec<(Error, Retry)> {
    vec![
        (Error::Unreachable { server: text(), reason: text() }, Retry::Soon),
        (Error::TimedOut { server: text() }, Retry::Soon),
        (Error::Tls { server: text(), reason: text() }, Retry::OnAnotherRoute),
        (Error::Redirected { server: text(), to: text() }, Retry::OnAnotherRoute),
        (Error::Sealed { server: text() }, Retry::Soon),
        (Error::Uninitialized { server: text() }, Retry::AfterOperator),
        (Error::Standby { server: text() }, Retry::Soon),
        (Error::BadRequest { path: text(), errors: errors() }, Retry::AfterOperator),
        (Error::Denied { path: text(), errors: errors() }, Retry::AfterOperator),
        (Error::NotFound { path: text(), errors: errors() }, Retry::AfterOperator),
        (Error::RateLimited { retry_after: None }, Retry::Soon),
        (Error::ServerError { path: text(), status: 500, errors: errors() }, Retry::Soon),
        (Error::Status { server: text(), path: text(), status: 412 }, Retry::OnAnotherRoute),
        (
            Error::NotJson { server: text(), path: text().into(), status: 511, what: text() },
            Retry::OnAnotherRoute,
        ),
        (Error::Broken { server: text() }, Retry::Soon),
        (Error::TooLarge { server: text(), path: text() }, Retry::OnAnotherRoute),
        (Error::Unexpected { path: text(), what: text() }, Retry::OnAnotherRoute),
    ]
}

#[test]
fn each_failure_of_vault_has_its_cure() {
    for (error, retry) in of_servers() {
        assert_eq!(Retry::of_server(&error), retry, "{error:?}");
        assert_eq!(Retry::of_signing(&SignError::Server(error.clone()), false), retry, "{error:?}");
        assert_eq!(Retry::of_login(&LoginError::Server(error.clone())), retry, "{error:?}");
        // What Vault itself calls passing passes here too, and nothing else does before a tunnel was ready.
        assert_eq!(retry.is_soon(), error.is_transient(), "{error:?}");
    }
}

#[test]
fn each_failure_of_a_login_has_its_cure() {
    let denied = || Error::Denied { path: text(), errors: errors() };
    let bad = || Error::BadRequest { path: text(), errors: errors() };
    for (error, retry) in [
        (LoginError::NoToken { file: text() }, Retry::AfterSignIn),
        (LoginError::TokenFile { path: "x".into(), reason: text() }, Retry::AfterSignIn),
        (LoginError::TokenRefused { origin: text(), source: denied() }, Retry::AfterSignIn),
        (LoginError::ServiceAccountToken { path: "x".into(), reason: text() }, Retry::AfterOperator),
        (LoginError::Refused { method: "approle", reason: text(), source: denied() }, Retry::AfterOperator),
        (LoginError::Refused { method: "userpass", reason: text(), source: bad() }, Retry::Never),
        (LoginError::SecondFactor { method: "userpass" }, Retry::Never),
    ] {
        assert_eq!(Retry::of_login(&error), retry, "{error:?}");
    }
}

#[test]
fn each_failure_of_a_signature_has_its_cure() {
    let second = Duration::from_secs(1);
    let too_long = || SignError::Mismatch(Mismatch::TooLong { asked: second, excess: second });
    for (error, clock_is_off, retry) in [
        (SignError::Refused { role: text(), reason: text() }, false, Retry::AfterOperator),
        (SignError::Mismatch(Mismatch::NotYetValid { wait: second }), false, Retry::AfterClockIsSet),
        (SignError::Mismatch(Mismatch::Expired { ago: second }), false, Retry::AfterClockIsSet),
        (too_long(), true, Retry::AfterClockIsSet),
        (too_long(), false, Retry::AfterOperator),
        (SignError::Mismatch(Mismatch::Signature), true, Retry::AfterOperator),
        (SignError::Key(ssh_key_error()), false, Retry::Never),
    ] {
        assert_eq!(Retry::of_signing(&error, clock_is_off), retry, "{error:?}");
    }
}

fn ssh_key_error() -> russh::keys::ssh_key::Error {
    russh::keys::ssh_key::Error::Crypto
}

#[test]
fn each_refusal_of_a_bastion_has_its_cure() {
    let told = |why: &str| Refusal::Certificate(Some(why.to_owned()));
    for (refusal, retry) in [
        (Refusal::Lost(text()), Retry::Soon),
        (Refusal::NotStrict, Retry::OnAnotherRoute),
        (Refusal::Algorithms(text()), Retry::OnAnotherRoute),
        (Refusal::HostKey(HostKeyMismatch::OtherKey { presented: text() }), Retry::OnAnotherRoute),
        (Refusal::HostKey(HostKeyMismatch::OtherAuthority { presented: text() }), Retry::OnAnotherRoute),
        (Refusal::HostKey(HostKeyMismatch::BareKey { presented: text() }), Retry::OnAnotherRoute),
        (Refusal::HostKey(HostKeyMismatch::Expired), Retry::OnAnotherRoute),
        (Refusal::HostKey(HostKeyMismatch::NotYet { wait: Duration::from_secs(45) }), Retry::Soon),
        (
            Refusal::HostKey(HostKeyMismatch::NotYet { wait: Duration::from_secs(7200) }),
            Retry::AfterClockIsSet,
        ),
        (Refusal::Certificate(None), Retry::AfterOperator),
        (told("audit_stopped: the bastion cannot write its audit records"), Retry::Soon),
        (told("too_many_connections: close one"), Retry::Soon),
        (told("shutdown: connect again"), Retry::Soon),
        (told("not_yet_valid: x"), Retry::AfterClockIsSet),
        (told("source_address: x"), Retry::OnAnotherRoute),
        (told("unknown_authority: x"), Retry::AfterOperator),
        (told("expired: x"), Retry::AfterOperator),
        (told("a word of the future: x"), Retry::AfterOperator),
        (told("no code at all"), Retry::AfterOperator),
        (told("key_id_revoked: x"), Retry::Never),
        (told("unknown_user: x"), Retry::Never),
    ] {
        assert_eq!(Retry::of_bastion(&refusal, false), retry, "{refusal:?}");
        let another = match refusal {
            Refusal::Certificate(_) => Retry::Soon,
            _ => retry,
        };
        assert_eq!(Retry::of_bastion(&refusal, true), another, "{refusal:?}, of one that was taken before");
    }
}
