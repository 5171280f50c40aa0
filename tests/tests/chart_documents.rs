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
