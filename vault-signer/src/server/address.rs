//! Vault's address: a URL with a host, nothing secret in it, and TLS unless it stays on this computer.

use std::net::IpAddr;

use reqwest::Url;

use super::SettingsError;
use crate::{http::is_loopback, text::shown};

/// The address that `text` is.
pub(super) fn parse(text: &str, dangerously_allow_plain_http: bool) -> Result<Url, SettingsError> {
    let wrong = |reason| SettingsError::Address { address: without_secrets(text), reason };
    let url = Url::parse(text.trim()).map_err(|_| wrong("it is not a URL"))?;
    // Also where a `/` in the password makes a path of the rest of it.
    if text.contains('@') {
        return Err(wrong("it has a user name or password in it"));
    }
    match url.scheme() {
        "https" | "http" => {}
        "unix" => return Err(wrong("unix sockets are not supported")),
        _ => return Err(wrong("it begins with neither https:// nor http://")),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("it has no host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a `?` or `#` in it"));
    }
    if url.scheme() == "http" && !is_loopback(&url) && !dangerously_allow_plain_http {
        return Err(SettingsError::PlainHttp { address: without_secrets(text) });
    }
    Ok(url)
}

/// An address as it may be shown: without a user name, a password, a query or a fragment, each of which may be secret,
/// and escaped. Where it is not clear which part is which, nothing but the scheme is left.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    let text = text.trim();
    let scheme = text.find("://").and_then(|end| text.get(..end + 3)).unwrap_or_default();
    let has_more = |part: Option<&str>, mark| if part.is_some() { mark } else { "" };
    let safe = match Url::parse(text) {
        Ok(url) if url.host_str().is_some_and(|host| !host.is_empty()) => {
            let named = !url.username().is_empty() || url.password().is_some();
            if text.contains('@') && !named {
                format!("{scheme}…")
            } else {
                let host = url.host_str().unwrap_or_default();
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                let path = if url.path() == "/" && !text.ends_with('/') { "" } else { url.path() };
                let (query, fragment) = (has_more(url.query(), "?…"), has_more(url.fragment(), "#…"));
                format!("{scheme}{}{host}{port}{path}{query}{fragment}", if named { "…@" } else { "" })
            }
        }
        _ if text.contains('@') => format!("{scheme}…"),
        _ => match text.find(['?', '#']) {
            Some(end) => format!("{}…", text.get(..=end).unwrap_or_default()),
            None => text.to_owned(),
        },
    };
    shown(&safe)
}

/// A name that a certificate can be for.
pub(super) fn server_name(name: &str) -> Result<String, SettingsError> {
    let wrong = || SettingsError::ServerName { name: shown(name) };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > 253 || !name.chars().all(is_plain) || name.parse::<IpAddr>().is_ok() {
        return Err(wrong());
    }
    Ok(name.to_owned())
}
