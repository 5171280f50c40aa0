//! Limits the process by Landlock to reading the listed files: it cannot write, create, remove or execute
//! files, nor bind a TCP port.

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope, path_beneath_rules,
};

use super::Bounds;

/// The newest version of Landlock that is requested. An older kernel enforces what it knows: files since
/// 5.13, ports since 6.7, signals to other processes since 6.12.
const VERSION: ABI = ABI::V6;

pub(super) fn restrict(bounds: &Bounds) -> Result<(), String> {
    match enforce(bounds) {
        Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => Ok(()),
        Ok(RulesetStatus::NotEnforced) => {
            Err("the kernel does not have it, or it is switched off".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn enforce(bounds: &Bounds) -> Result<RulesetStatus, RulesetError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(VERSION))?
        .create()?
        .add_rules(path_beneath_rules(&bounds.read, AccessFs::ReadFile | AccessFs::ReadDir))?
        .restrict_self()?;
    Ok(status.ruleset)
}
