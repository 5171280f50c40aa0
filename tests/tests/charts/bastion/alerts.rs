//! Alerts fire for what they say, and for nothing else, as far as their expressions show it.

use serde_json::Value;
use tests::{
    chart::{self, one, rendered},
    process::{Program, installed},
};

/// An alert of one of the files in `ci/`, if it is there.
fn rule(case: &str, alert: &str) -> Option<Value> {
    let objects = rendered(&chart::folder().join(format!("ci/{case}-values.yaml")));
    let rules = &one(&objects, "PrometheusRule", "bastion")["spec"]["groups"][0]["rules"];
    rules.as_array().unwrap().iter().find(|rule| rule["alert"] == alert).cloned()
}

fn expression(case: &str, alert: &str) -> Option<String> {
    rule(case, alert).map(|rule| rule["expr"].as_str().unwrap().to_owned())
}

#[test]
fn a_bastion_that_is_not_ready_counts_for_nothing() {
    // Pods that wait for authorities, or go, tell their metrics too.
    for (alert, expected) in
        [("BastionDown", ("absent(", " == 1)")), ("BastionSingleReplica", ("sum(", ") == 1"))]
    {
        let expression = expression("monitoring", alert).unwrap();
        let (start, end) = expected;
        assert!(expression.starts_with(&format!("{start}bastion_ready{{")), "{expression}");
        assert!(expression.ends_with(end), "{expression}");
    }
    assert_eq!(expression("files", "BastionSingleReplica"), None);
}

/// Another release of the same namespace may have a name that begins with this one's.
#[test]
fn alerts_are_about_the_pods_of_their_release() {
    let objects = rendered(&chart::folder().join("ci/monitoring-values.yaml"));
    let rules = &one(&objects, "PrometheusRule", "bastion")["spec"]["groups"][0]["rules"];
    let mut patterns = std::collections::BTreeSet::new();
    for rule in rules.as_array().unwrap().iter().filter(|rule| rule["alert"] != "NoSessions") {
        let expression = rule["expr"].as_str().unwrap();
        assert_eq!(
            expression.matches("pod=~\"").count(),
            expression.matches("bastion_").count(),
            "{expression}"
        );
        patterns.extend(
            expression.split("pod=~\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()),
        );
    }
    assert_eq!(patterns.len(), 1, "{patterns:?}");
    let pattern = patterns.pop_first().unwrap();
    // Anchored at both ends, as in PromQL.
    let fits = |pod: &str| {
        let grep = Program::new(installed("grep")).args(["-E", "-x", "-q", "-e", &pattern]).input(pod);
        grep.output().status.success()
    };
    for pod in ["bastion-5d8f7c9b6-x2x4z", "bastion-7d9-bcdfg"] {
        assert!(fits(pod), "{pod} is not among {pattern}");
    }
    for pod in [
        "bastion-staging-5d8f7c9b6-x2x4z",
        "bastion-5d8f7c9b6-x2x4z-more",
        "bastion-test",
        "bastion-0",
        "my-bastion-5d8f7c9b6-x2x4z",
        "bastion",
    ] {
        assert!(!fits(pod), "{pod} is among {pattern}");
    }
}

#[test]
fn what_is_stale_is_told_by_its_age_alone() {
    // A source that stays broken is counted as a failure once, and so is no failure after a quarter of an
    // hour.
    for (alert, metric) in [
        ("BastionAuthoritiesStale", "bastion_ca_refresh_timestamp_seconds"),
        ("BastionRevocationStale", "bastion_revocation_refresh_timestamp_seconds"),
    ] {
        let expression = expression("monitoring", alert).unwrap();
        assert!(expression.starts_with(&format!("time() - {metric}{{")), "{expression}");
        assert!(expression.ends_with(" > 1800") && !expression.contains("failures"), "{expression}");
    }
}

#[test]
fn a_host_certificate_is_told_of_after_its_renewal_was_due() {
    // Renewal is due when a third of it is left: eight hours of a day, twenty minutes of an hour.
    for (case, left, wait) in [("vault", 21600, "900s"), ("short-certificate", 900, "225s")] {
        let rule = rule(case, "BastionHostCertificateExpiring").unwrap();
        assert!(rule["expr"].as_str().unwrap().ends_with(&format!(" < {left}")), "{case}: {rule}");
        assert_eq!(rule["for"], wait, "{case}");
    }
    assert_eq!(rule("vault-approle", "BastionHostCertificateExpiring"), None);
}
