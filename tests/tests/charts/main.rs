//! The charts as Helm renders them: what they make, what they refuse, and which pods may talk to each
//! other by their policies. Needs neither root nor a cluster.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test may assume: a panic is a failed test, and says why"
)]

mod bastion;
mod every_chart;
mod examples;
mod guide;
mod ingress;
mod policies;
mod rows;
mod workload;

use std::path::Path;

use serde_json::Value;
use tests::{
    chart::{folder_of, helm, yaml},
    scratch::Scratch,
};

const RELEASE: &str = "shop";
const NAMESPACE: &str = "web";

/// Values, and words of the answer.
type Refused = &'static [(&'static str, &'static str)];

/// What Helm says: objects and nothing else, or an error.
fn template(chart: &str, values: &Path, more: &[&str]) -> Result<String, String> {
    let home = Scratch::new("helm");
    let words = ["template", RELEASE, "--namespace", NAMESPACE, "--values"];
    let output = helm(&home).args(words).arg(values).arg(folder_of(chart)).args(more).output();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The objects in the order of their kinds and names.
fn objects(text: &str) -> Vec<Value> {
    let mut objects = tests::network_policy::objects(text);
    objects.sort_by_key(|object| format!("{} {}", object["kind"], object["metadata"]["name"]));
    objects
}

/// The objects that a chart makes of these values.
fn render(chart: &str, values: &str) -> Vec<Value> {
    let file = Scratch::new("values");
    let file = file.write("values.yaml", values);
    objects(&template(chart, &file, &[]).unwrap_or_else(|error| panic!("{values}\n{error}")))
}

/// The same for a version of Kubernetes, or why there are none.
fn render_for(chart: &str, values: &str, version: &str) -> Result<Vec<Value>, String> {
    let file = Scratch::new("values");
    let file = file.write("values.yaml", values);
    template(chart, &file, &["--kube-version", version]).map(|text| objects(&text))
}

/// Whether all of these values are refused in these words. Each of them takes the place of what is said at
/// the top of `base`.
fn refuse(chart: &str, base: &str, refused: Refused) {
    let scratch = Scratch::new("refused");
    for (values, words) in refused {
        let mut all = yaml(base);
        let all = all.as_object_mut().unwrap();
        all.extend(yaml(values).as_object().unwrap().clone());
        let file = scratch.write("values.yaml", serde_json::to_string(all).unwrap());
        let error = template(chart, &file, &[]).expect_err(values);
        assert!(error.contains(words), "{values}\n{error}");
    }
}

/// What is said after an installation.
fn notes(chart: &str, values: &str) -> String {
    let (home, file) = (Scratch::new("helm"), Scratch::new("values"));
    let file = file.write("values.yaml", values);
    let words = ["install", RELEASE, "--dry-run=client", "--namespace", NAMESPACE, "--values"];
    let said = helm(&home).args(words).arg(file).arg(folder_of(chart)).succeed();
    said.split_once("NOTES:").map(|(_, notes)| notes.to_owned()).unwrap_or_default()
}

/// Whether these values are taken with a warning.
fn warns(chart: &str, values: &str, words: &str) {
    let said = notes(chart, values);
    let warnings: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("Warning: ")).collect();
    assert!(warnings.iter().any(|warning| warning.contains(words)), "{values}\n{said}");
}

/// The object of this kind and name.
fn one<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name} among {:?}", names(objects, kind)))
}

/// The names of all objects of a kind.
fn names<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a str> {
    let of_kind = objects.iter().filter(|object| object["kind"] == kind);
    of_kind.map(|object| object["metadata"]["name"].as_str().unwrap()).collect()
}
