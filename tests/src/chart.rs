//! The charts as tests find them: folders, files, the values files in `ci/`, and Helm, which renders them
//! without a cluster.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

pub use chart_documents::leaves;

use crate::{
    process::{Program, workspace},
    scratch::Scratch,
};

/// The folder of the bastion's chart.
#[must_use]
pub fn folder() -> PathBuf {
    folder_of("bastion")
}

/// The folder of a chart.
#[must_use]
pub fn folder_of(chart: &str) -> PathBuf {
    workspace().join("deploy/charts").join(chart)
}

/// A file of the bastion's chart.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn file(name: &str) -> String {
    let path = folder().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// YAML, whose keys keep their order.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn yaml(text: &str) -> Value {
    chart_documents::yaml(text).unwrap_or_else(|error| panic!("{error}"))
}

/// The values files in `ci/` of the bastion's chart, see [`cases_of`].
#[must_use]
pub fn cases() -> Vec<(String, PathBuf)> {
    cases_of(&folder())
}

/// The values files in a chart's `ci/`, by name without `-values.yaml`, in the order of the names.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn cases_of(chart: &Path) -> Vec<(String, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(chart.join("ci"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix("-values.yaml")?.to_owned();
            Some((name, path))
        })
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

/// Helm, without a cluster.
///
/// # Panics
/// When tests/install-helm did not run.
#[must_use]
pub fn helm(home: &Scratch) -> Program {
    let path = workspace().join(".cluster/bin/helm");
    assert!(path.is_file(), "{} is not there: run tests/install-helm first", path.display());
    Program::new(path).env("HOME", home.path())
}

/// What a guide of another stack shows, in `deploy/examples`.
#[derive(Debug, Clone)]
pub struct Example {
    /// The chart that it is of.
    pub chart: String,
    /// Its name.
    pub name: String,
    /// The values.
    pub values: PathBuf,
    /// Where it stands what Helm renders of them.
    pub rendered: PathBuf,
    /// What the guide has, where the API server refuses that.
    pub refused: Option<PathBuf>,
}

/// All examples, in the order of charts and names.
///
/// # Panics
/// When a folder of examples is not that of a chart.
#[must_use]
pub fn examples() -> Vec<Example> {
    let top = workspace().join("deploy/examples");
    let folders = fs::read_dir(&top).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let mut found: Vec<_> = folders
        .flat_map(|folder| {
            let chart = folder.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(folder_of(&chart).is_dir(), "there is no chart {chart}");
            let names = fs::read_dir(folder.clone()).unwrap().filter_map(|entry| {
                entry.unwrap().file_name().to_str()?.strip_suffix("-values.yaml").map(str::to_owned)
            });
            let names: Vec<_> = names.collect();
            names.into_iter().map(move |name| {
                let file = |kind: &str| folder.join(format!("{name}-{kind}.yaml"));
                let (values, rendered) = (file("values"), file("rendered"));
                let refused = Some(file("refused")).filter(|path| path.exists());
                Example { chart: chart.clone(), name, values, rendered, refused }
            })
        })
        .collect();
    found.sort_by_key(|example| (example.chart.clone(), example.name.clone()));
    found
}

/// The release of the bastion's chart in tests.
pub const RELEASE: &str = "bastion";
/// Its namespace.
pub const NAMESPACE: &str = "bastion";

/// What `helm template` says to a chart and values files: objects, or an error.
///
/// # Errors
/// Helm's words, when it refuses.
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

/// The objects of what Helm rendered.
///
/// # Panics
/// When it is no YAML.
#[must_use]
pub fn objects(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The objects that the bastion's chart makes of a values file.
///
/// # Panics
/// When Helm refuses.
#[must_use]
pub fn rendered(values: &Path) -> Vec<Value> {
    objects(
        &template(&folder(), &[values], &[]).unwrap_or_else(|error| panic!("{}: {error}", values.display())),
    )
}

/// The object of this kind and name.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn one<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    found(objects, kind, name).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The object of this kind and name, if there is one.
#[must_use]
pub fn found<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

/// All objects of a kind.
#[must_use]
pub fn kinds<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}
