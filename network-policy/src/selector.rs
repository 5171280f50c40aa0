//! Label selectors.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Labels;

/// Whether all requirements hold; without any, everything is selected.
pub(super) fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten();
    equal
        && expressions.into_iter().all(|wanted| {
            let value = labels.get(&wanted.key);
            let values = wanted.values.as_deref().unwrap_or_default();
            let listed = value.is_some_and(|value| values.contains(value));
            let takes_values = matches!(wanted.operator.as_str(), "In" | "NotIn");
            assert_eq!(takes_values, !values.is_empty(), "wrong number of values: {wanted:?}");
            match wanted.operator.as_str() {
                "In" => listed,
                // Who lacks the label has none of the values.
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("{other} is no operator of selectors"),
            }
        })
}
