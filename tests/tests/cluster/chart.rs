//! The chart: what it renders and what it refuses, that nothing in it is dead, and that an API server takes
//! all of it.

mod admission;
mod alerts;
mod configuration;
mod coverage;
mod flows;
mod notes;
mod posture;
mod refusals;
mod release;

use std::path::Path;

use serde_json::Value;
use tests::{
    chart::{self, cases, helm},
    scratch::Scratch,
};

const RELEASE: &str = "bastion";
const NAMESPACE: &str = "bastion";

/// What `helm template` says to a chart and values files: objects, or an error.
pub fn template(chart: &Path, values: &[&Path], more: &[&str]) -> Result<String, String> {
    let home = Scratch::new("helm");
    let mut helm =
        helm(&home).args(["template", RELEASE]).arg(chart).args(["--namespace", NAMESPACE]).args(more);
    for file in values {
        helm = helm.arg("--values").arg(file);
    }
    let output = helm.output();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

pub fn objects(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The objects of one of the files in `ci/`.
fn rendered(values: &Path) -> Vec<Value> {
    objects(
        &template(&chart::folder(), &[values], &[])
            .unwrap_or_else(|error| panic!("{}: {error}", values.display())),
    )
}

/// The object of this kind and name.
pub fn one<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    found(objects, kind, name).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

fn found<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

fn kinds<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

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
