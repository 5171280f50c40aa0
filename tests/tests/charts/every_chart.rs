//! Rules that hold for every companion chart and every values file in its `ci/`.

use std::{fs, path::PathBuf, sync::LazyLock};

use serde_json::Value;
use tests::{
    chart::{cases_of, folder_of, helm},
    scratch::Scratch,
};

use super::{NAMESPACE, objects, template};

/// The charts that are built on `common`, but for the bastion's, which has tests of its own.
fn charts() -> Vec<String> {
    let mut found: Vec<_> = fs::read_dir(folder_of(""))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("charts/common").exists() && entry.file_name() != "bastion")
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

/// A case of a chart, and what is rendered of it.
struct Case {
    chart: String,
    name: String,
    text: String,
}

/// All of them, rendered once.
fn rendered() -> &'static [Case] {
    static RENDERED: LazyLock<Vec<Case>> = LazyLock::new(|| {
        let cases = charts().into_iter().flat_map(|chart| {
            let cases = cases_of(&folder_of(&chart));
            cases.into_iter().map(move |(name, values)| (chart.clone(), name, values))
        });
        let render = |(chart, name, values): (String, String, PathBuf)| {
            let text = template(&chart, &values, &[]);
            let text = text.unwrap_or_else(|error| panic!("{chart}: {name}: {error}"));
            Case { chart, name, text }
        };
        cases.map(render).collect()
    });
    &RENDERED
}

/// Calls with each chart, case and what is rendered of it.
fn each(check: impl Fn(&str, &str, &str)) {
    rendered().iter().for_each(|case| check(&case.chart, &case.name, &case.text));
}

#[test]
fn every_case_renders_as_is_written_beside_it() {
    let write = std::env::var_os("WRITE_RENDERED").is_some();
    each(|chart, case, text| {
        let path = folder_of(chart).join(format!("ci/{case}-rendered.yaml"));
        if write {
            fs::write(&path, text).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == text,
            "{} is old; write it anew and read what changed: WRITE_RENDERED=1 cargo test -p tests --test charts renders",
            path.display()
        );
    });
    // No rendered file without a case is left behind.
    for chart in charts() {
        let cases: Vec<_> = cases_of(&folder_of(&chart)).into_iter().map(|(case, _)| case).collect();
        for entry in fs::read_dir(folder_of(&chart).join("ci")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let case = name.strip_suffix("-rendered.yaml").or(name.strip_suffix("-values.yaml"));
            assert!(
                case.is_some_and(|case| cases.iter().any(|known| known == case)),
                "{chart}: ci/{name} is of no case"
            );
        }
    }
}

#[test]
fn every_case_is_without_a_complaint_of_lint() {
    let home = Scratch::new("helm");
    for chart in charts() {
        for (_, values) in cases_of(&folder_of(&chart)) {
            let words = ["lint", "--strict", "--namespace", NAMESPACE, "--values"];
            helm(&home).args(words).arg(values).arg(folder_of(&chart)).succeed();
        }
    }
}

/// What a server would drop or fill in, so that it differs for ever from what was applied, as JSON pointers.
/// An empty selector means everything.
fn holes(path: &str, value: &Value, found: &mut Vec<String>) {
    const MAY_BE_EMPTY: [&str; 5] =
        ["podSelector", "namespaceSelector", "endpointSelector", "emptyDir", "securityContext"];
    let name = path.rsplit('/').next().unwrap();
    match value {
        Value::Null => found.push(path.to_owned()),
        // That of Kubernetes itself, which references of other kinds write out.
        Value::String(text) if text.is_empty() && name == "group" => {}
        Value::String(text)
            if text.is_empty() || text == "null" || text.contains("<nil>") || text.contains("%!") =>
        {
            found.push(path.to_owned());
        }
        Value::Object(map) if map.is_empty() && !MAY_BE_EMPTY.contains(&name) => found.push(path.to_owned()),
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| holes(&format!("{path}/{key}"), value, found))
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(at, value)| holes(&format!("{path}/{at}"), value, found))
        }
        _ => {}
    }
}

#[test]
fn nothing_is_rendered_that_is_empty() {
    each(|chart, case, text| {
        for object in objects(text) {
            let mut found = Vec::new();
            holes("", &object, &mut found);
            // A rule of Cilium that permits nothing is `{}`, and an empty list of rules denies.
            found.retain(|path| !path.starts_with("/spec/egress/") && !path.starts_with("/spec/ingress/"));
            assert_eq!(found, Vec::<String>::new(), "{chart}: {case}: {object}");
        }
    });
}

#[test]
fn objects_have_one_name_each_and_say_whose_they_are() {
    each(|chart, case, text| {
        let mut names = std::collections::BTreeSet::new();
        for object in objects(text) {
            let metadata = &object["metadata"];
            let id = format!("{} {} {}", object["kind"], metadata["namespace"], metadata["name"]);
            assert!(names.insert(id.clone()), "{chart}: {case}: {id} twice");
            assert!(metadata["name"].as_str().unwrap().len() <= 63, "{chart}: {case}: {id}");
            let labels = &metadata["labels"];
            assert_eq!(labels["app.kubernetes.io/managed-by"], "Helm", "{chart}: {case}: {id}");
            assert_eq!(labels["app.kubernetes.io/instance"], "shop", "{chart}: {case}: {id}");
        }
    });
}

#[test]
fn whatever_ends_by_itself_is_kept_out_of_the_mesh() {
    // A proxy beside it would not end.
    let mut count = 0;
    let mut check = |what: &str, text: &str| {
        for object in objects(text) {
            let template = match object["kind"].as_str().unwrap() {
                "Job" => &object["spec"]["template"],
                "Pod" => &object,
                _ => continue,
            };
            assert_eq!(template["metadata"]["annotations"]["linkerd.io/inject"], "disabled", "{what}");
            count += 1;
        }
    };
    rendered().iter().for_each(|case| check(&format!("{}: {}", case.chart, case.name), &case.text));
    check("bastion", &template("bastion", &folder_of("bastion/ci/default-values.yaml"), &[]).unwrap());
    assert!(count > 0);
}

#[test]
fn annotations_of_the_mesh_stand_on_pods_services_and_namespaces_alone() {
    each(|chart, case, text| {
        for object in objects(text) {
            let annotations = object["metadata"]["annotations"].as_object();
            let of_mesh = annotations.into_iter().flatten().any(|(key, _)| key.contains("linkerd.io/"));
            let kind = object["kind"].as_str().unwrap();
            assert!(!of_mesh || ["Service", "Namespace", "Pod"].contains(&kind), "{chart}: {case}: {object}");
        }
    });
}

#[test]
fn every_chart_tells_external_dns_by_one_prefix() {
    let mut prefixes = Vec::new();
    for entry in fs::read_dir(folder_of("")).unwrap() {
        let chart = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(chart.join("values.yaml")) else { continue };
        let values = tests::chart::yaml(&text);
        prefixes.extend(values.pointer("/service/externalDns/annotationPrefix").cloned());
        // A template that writes it calls the template for it.
        for template in fs::read_dir(chart.join("templates")).unwrap() {
            let template = template.unwrap().path();
            let is_its_own = template.ends_with("common/templates/_services.tpl");
            let Ok(text) = fs::read_to_string(&template) else { continue };
            let literal = text.lines().any(|line| line.contains("external-dns.") && !line.starts_with('{'));
            assert!(is_its_own || !literal, "{}", template.display());
        }
    }
    assert!(prefixes.len() >= 2 && prefixes.iter().all(|prefix| *prefix == prefixes[0]), "{prefixes:?}");
}

#[test]
fn the_switch_of_native_sidecars_has_its_present_name() {
    for chart in ["bastion", "workload"] {
        let text = template(chart, &folder_of(&format!("{chart}/ci/mesh-values.yaml")), &[]).unwrap();
        let objects = objects(&text);
        let pods = objects.iter().filter(|object| object["spec"]["template"].is_object());
        let said: Vec<_> = pods
            .map(|object| &object["spec"]["template"]["metadata"]["annotations"])
            .filter_map(|annotations| annotations["config.linkerd.io/proxy-enable-native-sidecar"].as_str())
            .collect();
        assert_eq!(said.len(), 1, "{chart}");
    }
}
