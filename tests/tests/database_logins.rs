//! Real databases and real clients of them, through the machines of `database-wire`: no client knows the
//! password.

mod mysql;
mod postgres;
mod redis;
