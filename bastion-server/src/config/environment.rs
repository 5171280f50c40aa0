//! Overrides the few settings that differ from one machine to the next by environment variables.
//!
//! Unknown `BASTION_…` variables are ignored: Kubernetes sets some, such as `BASTION_PORT`, beside a Service
//! of that name.

use serde::de::{
    DeserializeOwned,
    value::{Error as ValueError, StringDeserializer},
};

use super::{Admin, AuditTo, Config};

/// An environment variable that overrides a setting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variable {
    pub name: &'static str,
    /// A value that the setting accepts.
    pub example: &'static str,
    pub setting: &'static str,
    apply: fn(&mut Config, String) -> Option<()>,
}

pub(crate) const VARIABLES: [Variable; 7] = [
    Variable {
        name: "BASTION_LISTEN",
        example: "0.0.0.0:2222",
        setting: "listen",
        apply: |config, value| set(&mut config.listen, value.parse().ok()),
    },
    Variable {
        name: "BASTION_ADMIN_LISTEN",
        example: "127.0.0.1:8080",
        setting: "admin.listen",
        apply: |config, value| {
            set(&mut config.admin, value.parse().ok().map(|listen| Some(Admin { listen })))
        },
    },
    Variable {
        name: "BASTION_LOG_LEVEL",
        example: "info",
        setting: "log.level",
        apply: |config, value| set(&mut config.log.level, parse(value)),
    },
    Variable {
        name: "BASTION_LOG_FORMAT",
        example: "json",
        setting: "log.format",
        apply: |config, value| set(&mut config.log.format, parse(value)),
    },
    Variable {
        name: "BASTION_AUDIT_FILE",
        example: "/var/log/bastion/audit.jsonl",
        setting: "audit.to.file",
        apply: |config, value| set(&mut config.audit.to, Some(AuditTo::File(value.into()))),
    },
    Variable {
        name: "BASTION_DRAIN_READINESS_DELAY",
        example: "15s",
        setting: "drain.readiness_delay",
        apply: |config, value| set(&mut config.drain.readiness_delay, parse(value)),
    },
    Variable {
        name: "BASTION_DRAIN_TIMEOUT",
        example: "10m",
        setting: "drain.timeout",
        apply: |config, value| set(&mut config.drain.timeout, parse(value)),
    },
];

/// A variable holds a value that its setting does not accept. The message does not repeat the value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the environment variable {variable} cannot be used for {setting}\n  One that can looks like {variable}={example}"
)]
pub struct Error {
    variable: &'static str,
    example: &'static str,
    setting: &'static str,
}

impl Config {
    /// Returns the configuration with the values of the environment. An empty variable counts as unset.
    pub(super) fn overridden(
        mut self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, super::Error> {
        for Variable { name, example, setting, apply } in VARIABLES {
            if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
                apply(&mut self, value).ok_or(Error { variable: name, example, setting })?;
            }
        }
        Ok(self)
    }
}

fn set<T>(setting: &mut T, value: Option<T>) -> Option<()> {
    *setting = value?;
    Some(())
}

/// Parses the value as the file's parser would.
fn parse<T: DeserializeOwned>(value: String) -> Option<T> {
    T::deserialize(StringDeserializer::<ValueError>::new(value)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry;

    fn with(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let text =
            "listen: 127.0.0.1:1\nhost_key: {generate: true}\nauthorities: [{file: f}]\nlogin: {users: [u]}";
        config_file::parse::<Config>("b.yaml".as_ref(), text)
            .unwrap()
            .overridden(|name| {
                pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_variable_works_with_its_own_example() {
        let examples: Vec<_> = VARIABLES.iter().map(|variable| (variable.name, variable.example)).collect();
        let config = with(&examples).unwrap();
        assert_eq!(config.listen.port(), 2222);
        assert_eq!(config.admin.unwrap().listen.port(), 8080);
        assert_eq!(config.log.format, telemetry::Format::Json);
        assert_eq!(config.audit.to, AuditTo::File("/var/log/bastion/audit.jsonl".into()));
        assert_eq!(config.drain.timeout.0.as_secs(), 600);
    }

    #[test]
    fn a_wrong_value_is_refused_and_not_repeated() {
        let error = with(&[("BASTION_LISTEN", "hunter2")]).unwrap_err();
        assert_eq!(
            error,
            "the environment variable BASTION_LISTEN cannot be used for listen\n  \
             One that can looks like BASTION_LISTEN=0.0.0.0:2222"
        );
    }

    #[test]
    fn what_kubernetes_sets_beside_a_service_is_left_alone() {
        let config = with(&[("BASTION_PORT", "tcp://10.0.0.1:22"), ("BASTION_LISTEN", "")]).unwrap();
        assert_eq!(config.listen.port(), 1);
    }
}
