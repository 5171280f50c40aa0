//! The process and its kernel: the sandbox, signals and drain, the machine's own addresses, the limit of open files.

pub mod drain;
pub mod fence;
pub mod own_addresses;
