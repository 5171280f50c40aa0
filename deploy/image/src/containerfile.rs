//! The last stage of a Containerfile: the few instructions that ours is written with, and an error for any
//! other.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// What an image is run with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) user: String,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
    pub(crate) labels: Map<String, Value>,
}

impl Stage {
    /// Reads the last stage of `text`, with the values of its arguments.
    pub(crate) fn last(text: &str, arguments: &[(&str, &str)]) -> Result<Self> {
        let (_, last) = text.rsplit_once("\nFROM scratch\n").context("the last stage is not FROM scratch")?;
        let mut stage = Self::default();
        let lines = last.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let (instruction, rest) =
                line.split_once(' ').with_context(|| format!("not understood: {line}"))?;
            match instruction {
                "ARG" => ensure!(arguments.iter().any(|(name, _)| *name == rest), "no value for {line}"),
                // All of the files, which `root` makes.
                "COPY" => ensure!(rest == "--from=build /image /", "cannot copy anything else: {line}"),
                "USER" => stage.user = rest.to_owned(),
                "ENTRYPOINT" => stage.entrypoint = serde_json::from_str(rest).context(line.to_owned())?,
                "CMD" => stage.command = serde_json::from_str(rest).context(line.to_owned())?,
                "LABEL" => {
                    let (name, value) = rest.split_once('=').with_context(|| line.to_owned())?;
                    let value: String = serde_json::from_str(value).with_context(|| line.to_owned())?;
                    let value = match value.strip_prefix('$') {
                        Some(asked) => {
                            let given = arguments.iter().find(|(name, _)| *name == asked);
                            given.with_context(|| format!("no value for {line}"))?.1.to_owned()
                        }
                        None => value,
                    };
                    stage.labels.insert(name.to_owned(), Value::String(value));
                }
                _ => bail!("not understood: {line}"),
            }
        }
        Ok(stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = include_str!("../Containerfile");

    #[test]
    fn ours_is_run_without_privileges() {
        let stage = Stage::last(OURS, &[("VERSION", "1.2.3"), ("REVISION", "abc")]).unwrap();
        assert_eq!(stage.user, "65532:65532");
        assert_eq!(stage.entrypoint, ["/bastion-server"]);
        assert_eq!(stage.command, ["/etc/bastion/bastion.yaml"]);
        assert_eq!(stage.labels["org.opencontainers.image.version"], "1.2.3");
        assert_eq!(stage.labels["org.opencontainers.image.revision"], "abc");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in ["RUN true", "COPY . /", "LABEL a", "LABEL a=\"$NOBODY\"", "ARG NOBODY", "USER"] {
            let text = format!("FROM x\n\nFROM scratch\n{line}\n");
            assert!(Stage::last(&text, &[]).is_err(), "{line}");
        }
        assert!(Stage::last("FROM x\nFROM y\nUSER 1\n", &[]).is_err());
    }
}
