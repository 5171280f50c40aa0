//! Chooses the proxy of the environment as kubectl does, which is what Go's `httpproxy.FromEnvironment` says: no proxy for
//! this computer itself, and `NO_PROXY` in Go's reading of it.

use std::net::IpAddr;

use ipnet::IpNet;

/// The proxy for a URL of this scheme, host and port; `None` if it is reached without one.
pub(super) fn of_environment(
    scheme: &str,
    host: &str,
    port: u16,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let said = |upper: &str| {
        let names = [upper.to_owned(), upper.to_ascii_lowercase()];
        names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()))
    };
    let proxy = said(if scheme == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" })?;
    if is_exempt(host, port, &said("NO_PROXY").unwrap_or_default()) {
        return None;
    }
    let has_scheme =
        ["http://", "https://", "socks5://", "socks5h://"].iter().any(|start| proxy.starts_with(start));
    Some(if has_scheme { proxy } else { format!("http://{proxy}") })
}

fn is_exempt(host: &str, port: u16, list: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    list.split(',')
        .map(|part| part.trim().to_ascii_lowercase())
        .any(|part| matches(&part, &host, port, address))
}

fn matches(part: &str, host: &str, port: u16, address: Option<IpAddr>) -> bool {
    if part == "*" {
        return true;
    }
    if part.contains('/')
        && let Ok(network) = part.parse::<IpNet>()
    {
        return address.is_some_and(|address| network.contains(&address));
    }
    let (name, only) = with_port(part);
    if only.is_some_and(|only| only != port.to_string()) {
        return false;
    }
    let name = name.trim_matches(['[', ']']);
    if let Ok(exempt) = name.parse::<IpAddr>() {
        return address == Some(exempt.to_canonical());
    }
    let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
    match name.strip_prefix('.') {
        _ if name.is_empty() => false,
        // The host itself is not below its own name.
        Some(_) => host.ends_with(name),
        None => host == name || host.strip_suffix(name).is_some_and(|above| above.ends_with('.')),
    }
}

/// `host:port`, `[address]:port`, or neither.
fn with_port(part: &str) -> (&str, Option<&str>) {
    match part.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || (host.starts_with('[') && host.ends_with(']')) => {
            (host, Some(port))
        }
        _ => (part, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "http://proxy.example.com:3128";

    fn chosen(url: (&str, &str, u16), set: &[(&str, &str)]) -> Option<String> {
        let (scheme, host, port) = url;
        of_environment(scheme, host, port, |name| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_proxy_is_chosen_as_kubectl_does() {
        for host in ["127.0.0.1", "localhost", "[::1]", "127.8.8.8", "LOCALHOST"] {
            assert_eq!(chosen(("https", host, 6443), &[("HTTPS_PROXY", PROXY)]), None, "{host}");
        }
        let url = ("https", "api.example.com", 6443);
        for (set, proxy) in [
            (&[("HTTPS_PROXY", PROXY)][..], Some(PROXY)),
            (&[("https_proxy", PROXY)], Some(PROXY)),
            (&[("HTTPS_PROXY", ""), ("https_proxy", PROXY)], Some(PROXY)),
            (&[("HTTPS_PROXY", "proxy.example.com:3128")], Some(PROXY)),
            (&[("HTTP_PROXY", PROXY)], None),
            (&[("ALL_PROXY", PROXY)], None),
            (&[], None),
        ] {
            assert_eq!(chosen(url, set).as_deref(), proxy, "{set:?}");
        }
        assert_eq!(chosen(("http", "api.example.com", 80), &[("HTTP_PROXY", PROXY)]).as_deref(), Some(PROXY));
    }

    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        for (host, list, exempt) in [
            ("api.example.com", "example.com", true),
            ("api.example.com", ".example.com", true),
            ("api.example.com", "*.example.com", true),
            ("example.com", "example.com", true),
            ("example.com", ".example.com", false),
            ("notexample.com", "example.com", false),
            ("api.example.com", "other.com, example.com", true),
            ("API.Example.com", "example.COM", true),
            ("api.example.com", "*", true),
            ("api.example.com", "", false),
            ("api.example.com", ",,", false),
            ("api.example.com", "example.com:6443", true),
            ("api.example.com", "example.com:443", false),
            ("10.1.2.3", "10.0.0.0/8", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.3:6443", true),
            ("10.1.2.3", "10.1.2.3:443", false),
            ("10.1.2.3", "10.1", false),
            ("[2001:db8::1]", "2001:db8::/32", true),
            ("[2001:db8::1]", "[2001:db8::1]:6443", true),
        ] {
            let proxy = chosen(("https", host, 6443), &[("HTTPS_PROXY", PROXY), ("NO_PROXY", list)]);
            assert_eq!(proxy.is_none(), exempt, "{host} {list}");
        }
    }
}
