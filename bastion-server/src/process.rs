//! The process and its kernel: the sandbox, signals and drain, the machine's own addresses, the limit of open files.

pub(crate) mod drain;
pub(crate) mod fence;
pub(crate) mod open_files;
pub(crate) mod own_addresses;
