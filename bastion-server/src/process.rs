//! Asks the kernel for a sandbox, for signals, for the machine's own addresses, and for enough open files.

pub(crate) mod drain;
pub(crate) mod fence;
pub(crate) mod open_files;
pub(crate) mod own_addresses;
