//! The charts' schemas and the tables in their READMEs say what the programs and `values.yaml` say.

use std::fs;

use chart_documents::documents;
use tests::chart::folder_of;

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
