//! The charts' schemas and the tables in their READMEs say what the programs and `values.yaml` say.

use std::fs;

use chart_documents::documents;
use tests::chart::{self, folder_of};

#[test]
fn every_chart_has_the_documents_that_its_values_make() {
    let mut count = 0;
    for entry in fs::read_dir(folder_of("")).unwrap() {
        let chart = entry.unwrap().path();
        if !chart.join("values.yaml").is_file() {
            continue;
        }
        for document in documents(&chart).unwrap() {
            let path = document.path.display();
            assert!(document.is_current(), "{path} is old: `make chart-documents` writes it anew");
            count += 1;
        }
    }
    assert!(count >= 2, "{count}");
}

/// What no rule of the bastion opens, no network policy of its chart does either.
#[test]
fn an_open_network_policy_leaves_out_every_metadata_service_of_the_floor() {
    let text = chart::file("templates/_network.tpl");
    let left_out: Vec<ipnet::IpNet> = ["4", "6"]
        .iter()
        .flat_map(|family| {
            let (_, rest) = text.split_once(&format!("define \"bastion.metadata{family}\" -}}}}")).unwrap();
            let (list, _) = rest.split_once("{{").unwrap();
            serde_json::from_str::<Vec<ipnet::IpNet>>(list).unwrap()
        })
        .collect();
    for address in bastion_server::CLOUD_METADATA {
        assert!(left_out.iter().any(|network| network.contains(&address)), "{address}");
    }
}

#[test]
fn charts_and_programs_have_the_domain_of_our_names_in_one_line_each() {
    let domain = vault_signer::DOMAIN;
    let charts = folder_of("");
    let mut lines = Vec::new();
    let mut folders = vec![charts];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_link = path.is_symlink();
            match path.file_name().unwrap().to_str().unwrap() {
                // Made of the templates and of the program.
                "ci" | "crds" => {}
                _ if path.is_dir() && !is_link => folders.push(path),
                name if name.ends_with(".md") => {}
                _ if is_link => {}
                _ => {
                    let text = fs::read_to_string(&path).unwrap();
                    lines.extend(text.lines().filter(|line| line.contains(domain)).map(str::to_owned));
                }
            }
        }
    }
    assert_eq!(lines, [domain], "only common.domain writes it");
}
