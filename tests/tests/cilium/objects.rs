//! Cilium's own definition takes every policy that the chart makes.

use tests::chart;

use super::fixture;

#[test]
fn every_case_is_a_policy_by_ciliums_own_definition() {
    let cluster = fixture::cluster();
    let namespace = cluster.namespace("objects");
    let mut count = 0;
    for (case, values) in chart::cases() {
        let words = ["template", "bastion", "--namespace", namespace.name(), "--values"];
        let rendered = cluster.helm_program(&words).arg(&values).arg(chart::folder()).succeed();
        let policies =
            rendered.split("\n---\n").filter(|text| text.contains("\nkind: CiliumNetworkPolicy\n"));
        for policy in policies {
            let words = ["apply", "--dry-run=server", "--validate=strict", "--filename=-"];
            let said = namespace.kubectl_program(&words).input(policy).succeed();
            assert!(said.contains("created (server dry run)"), "{case}: {said}");
            count += 1;
        }
    }
    assert!(count >= 3, "{count}");
    println!("{count} policies");
}
