//! Matches the key ids of certificates.

use schemars::JsonSchema;
use serde::Deserialize;

/// A key id in which `*` stands for any characters, as in `vault-oidc-*`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("minLength" = 1))]
pub(crate) struct KeyIdPattern(String);

impl KeyIdPattern {
    pub(crate) fn matches(&self, key_id: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else {
            return self.0 == key_id;
        };
        let Some(mut text) = key_id.strip_prefix(first) else {
            return false;
        };
        // The parts between stars are found from left to right, and the last one at the end.
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        for part in middle.split('*').filter(|part| !part.is_empty()) {
            match text.split_once(part) {
                Some((_, behind)) => text = behind,
                None => return false,
            }
        }
        text.ends_with(last)
    }
}

impl TryFrom<String> for KeyIdPattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() {
            Err("an empty key id matches no certificate; write a text such as `vault-oidc-*`")
        } else {
            Ok(Self(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids() {
        for (pattern, key_id, expected) in [
            ("vault-oidc-me", "vault-oidc-me", true),
            ("vault-oidc-me", "vault-oidc-me2", false),
            ("vault-oidc-*", "vault-oidc-me", true),
            ("vault-oidc-*", "vault-oidc-", true),
            ("vault-oidc-*", "vault-approle-me", false),
            ("*@example.com", "me@example.com", true),
            ("*@example.com", "me@example.com.evil", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*b*b", "a-b", false),
            ("a**c", "abc", true),
            ("*", "", true),
            ("ab*ba", "aba", false),
        ] {
            let pattern = KeyIdPattern::try_from(pattern.to_owned()).unwrap();
            assert_eq!(pattern.matches(key_id), expected, "{pattern:?} {key_id}");
        }
    }
}
