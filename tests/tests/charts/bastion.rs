//! The bastion's chart as Helm renders it: what it makes and what it refuses, and that nothing in it is dead.

mod alerts;
mod configuration;
mod coverage;
mod flows;
mod notes;
mod posture;
mod refusals;

use tests::{
    chart::{self, NAMESPACE, RELEASE, cases, helm, rendered},
    scratch::Scratch,
};

#[test]
fn every_case_is_without_a_complaint_of_lint() {
    let home = Scratch::new("helm");
    for (_, values) in cases() {
        let words = ["lint", "--strict", "--namespace", NAMESPACE, "--values"];
        helm(&home).args(words).arg(values).arg(chart::folder()).succeed();
    }
}

#[test]
fn objects_have_one_name_each_and_say_where_they_belong() {
    const OF_THE_CLUSTER: [&str; 2] = ["ClusterRole", "ClusterRoleBinding"];
    let mut count = 0;
    for (case, values) in cases() {
        let objects = rendered(&values);
        let mut names = std::collections::BTreeSet::new();
        for object in &objects {
            let (kind, metadata) = (object["kind"].as_str().unwrap(), &object["metadata"]);
            let id = format!("{kind} {} {}", metadata["namespace"], metadata["name"]);
            assert!(names.insert(id.clone()), "{case}: {id} twice");
            if metadata["name"] == "more" {
                continue;
            }
            assert_eq!(metadata["namespace"].is_null(), OF_THE_CLUSTER.contains(&kind), "{case}: {id}");
            assert_eq!(metadata["labels"]["app.kubernetes.io/instance"], RELEASE, "{case}: {id}");
        }
        count += objects.len();
    }
    println!("{} cases, {count} objects", cases().len());
}
