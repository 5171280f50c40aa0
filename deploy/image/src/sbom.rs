//! Lists the packages that cargo linked into the binary, as CycloneDX 1.6, without those that only helped to
//! build it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    compile::{Arch, Built},
    oci,
};

/// Writes it, the same for the same build.
pub(crate) fn write(built: &Built, arch: Arch, date: Timestamp) -> Result<Vec<u8>> {
    let known: BTreeMap<_, _> = list(&built.metadata["packages"])
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    let mut application = None;
    let mut libraries = BTreeMap::new();
    for id in &built.linked {
        let package = known.get(id.as_str()).with_context(|| format!("cargo does not describe {id}"))?;
        if package["name"] == "bastion-server" {
            application = Some(component(package, "application")?);
        } else {
            libraries.insert(purl(package)?, component(package, "library")?);
        }
    }
    let mut application = application.context("cargo has not linked the bastion")?;
    application["hashes"] = json!([{"alg": "SHA-256", "content": oci::hex(&built.binary)}]);
    application["properties"] = json!([{"name": "oci:platform", "value": format!("linux/{arch}")}]);

    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": date.to_string(), "component": application},
        "components": libraries.into_values().collect::<Vec<_>>(),
        "dependencies": dependencies(built, &known)?,
    });
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    Ok(text)
}

fn component(package: &Value, kind: &str) -> Result<Value> {
    let purl = purl(package)?;
    let licence = package["license"].as_str();
    ensure!(licence.is_some(), "{purl} names no licence");
    // The separator of old manifests.
    let licence = licence.unwrap_or_default().replace('/', " OR ");
    Ok(json!({
        "type": kind,
        "bom-ref": purl,
        "name": package["name"],
        "version": package["version"],
        "licenses": [{"expression": licence}],
        "purl": purl,
    }))
}

/// What links what, among what was linked.
fn dependencies(built: &Built, known: &BTreeMap<&str, &Value>) -> Result<Vec<Value>> {
    let named = |id: &Value| {
        let id = id.as_str().filter(|id| built.linked.contains(*id))?;
        known.get(id).copied()
    };
    let mut all = BTreeMap::new();
    for node in list(&built.metadata["resolve"]["nodes"]) {
        let Some(package) = named(&node["id"]) else { continue };
        let mut on = list(&node["deps"])
            .filter(|dependency| list(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null()))
            .filter_map(|dependency| named(&dependency["pkg"]))
            .map(purl)
            .collect::<Result<Vec<_>>>()?;
        on.sort();
        all.insert(purl(package)?, on);
    }
    Ok(all.into_iter().map(|(of, on)| json!({"ref": of, "dependsOn": on})).collect())
}

/// The name of a package among those of all ecosystems.
fn purl(package: &Value) -> Result<String> {
    let (name, version) = (package["name"].as_str(), package["version"].as_str());
    let (name, version) = name.zip(version).context("cargo described a package without a name")?;
    Ok(format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lists_what_was_linked() {
        let package = |name: &str, licence: &str| json!({"id": format!("id of {name}"), "name": name, "version": "1.0.0+2", "license": licence});
        let depends =
            |on: &str, kind: Value| json!({"pkg": format!("id of {on}"), "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                package("bastion-server", "Apache-2.0"), package("serde", "MIT/Apache-2.0"), package("cc", "MIT"),
            ],
            "resolve": {"nodes": [
                {"id": "id of bastion-server", "deps": [depends("serde", Value::Null), depends("cc", json!("build"))]},
                {"id": "id of serde", "deps": [depends("cc", Value::Null)]},
                {"id": "id of cc", "deps": []},
            ]},
        });
        let linked = ["id of bastion-server", "id of serde"].map(str::to_owned).into();
        let built = Built { binary: b"binary".to_vec(), linked, metadata };
        let sbom = write(&built, Arch::Amd64, Timestamp::UNIX_EPOCH).unwrap();
        let sbom: Value = serde_json::from_slice(&sbom).unwrap();
        assert_eq!(sbom["metadata"]["component"]["name"], "bastion-server");
        assert_eq!(
            sbom["components"],
            json!([{
                "type": "library", "bom-ref": "pkg:cargo/serde@1.0.0%2B2", "name": "serde", "version": "1.0.0+2",
                "licenses": [{"expression": "MIT OR Apache-2.0"}], "purl": "pkg:cargo/serde@1.0.0%2B2",
            }])
        );
        assert_eq!(
            sbom["dependencies"],
            json!([
                {"ref": "pkg:cargo/bastion-server@1.0.0%2B2", "dependsOn": ["pkg:cargo/serde@1.0.0%2B2"]},
                {"ref": "pkg:cargo/serde@1.0.0%2B2", "dependsOn": []},
            ])
        );
    }
}
