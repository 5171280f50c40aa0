//! The chart's notes after an installation are true of what was installed.

use tests::{
    chart::{self, NAMESPACE, RELEASE, helm},
    scratch::Scratch,
};

/// What would be said with one of the files in `ci/`.
fn notes(case: &str) -> String {
    let home = Scratch::new("helm");
    let words = ["install", RELEASE, "--dry-run=client", "--namespace", NAMESPACE, "--values"];
    let values = chart::folder().join(format!("ci/{case}-values.yaml"));
    let said = helm(&home).args(words).arg(values).arg(chart::folder()).succeed();
    said.split_once("NOTES:").expect("notes").1.to_owned()
}

#[test]
fn the_authority_is_one_and_its_key_is_the_one_that_is_read() {
    let said = notes("objects");
    assert!(said.contains("create configmap next-user-ca --from-file=ca.pub=YOUR_AUTHORITY.pub"), "{said}");
    assert!(!said.contains("configmap revoked"), "{said}");
    assert!(!notes("vault").contains("create configmap"));
}

#[test]
fn a_tunnel_is_promised_where_there_is_one() {
    let said = notes("nodeport");
    assert!(
        said.contains("    pf-tunnel --kube-context ") && !said.contains("needs more settings"),
        "{said}"
    );
    let said = notes("default");
    assert!(!said.contains("    pf-tunnel --kube-context "), "{said}");
    assert!(said.contains("    bastion.address, or service.hostnames\n    vault.address, "), "{said}");
    // The chart publishes the host key through Kubernetes, or the notes ask for it.
    assert!(notes("vault").contains("Set connectionInfo.file.bastion.host_authority"));
    assert!(!notes("files").contains("host_authority"));
    assert!(!notes("behind-a-balancer").contains("helm test"));
}

#[test]
fn what_is_open_for_want_of_knowledge_is_told() {
    let open = |case: &str| notes(case).contains("to ports 443, 6443 of all private networks");
    for (case, expected) in [
        ("default", true),
        ("objects", false),
        ("open-egress", false),
        ("cilium", false),
        ("networks", false),
    ] {
        assert_eq!(open(case), expected, "{case}");
    }
}
