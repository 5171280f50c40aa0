//! Finds the addresses of this machine and of the cluster's API server, which are on the floor.

use std::{io, net::IpAddr};

use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};
use thiserror::Error;

use crate::destination::Host;

/// The variable by which Kubernetes tells each pod the address of the API server.
const SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";

/// Lists the addresses of this machine's or this pod's network interfaces at this moment: a DHCP lease, a
/// tunnel or a privacy address may appear at any time.
///
/// # Errors
/// When the system cannot list them.
pub(crate) fn interfaces() -> io::Result<Vec<IpAddr>> {
    Ok(getifaddrs()?.filter_map(|interface| ip(&interface.address?)).collect())
}

/// The variable holds something that [`kubernetes_api`] cannot parse.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{SERVICE_HOST} is {:?}, which is no address and no host name\n  So nothing is known not to be the API server. Set it right, unset it where \
     there is no cluster, or take kubernetes-api off the floor (open_networks)",
    .0.escape_debug().to_string()
)]
pub(crate) struct NoServiceHost(String);

/// Reads the address of the API server from the environment, which Kubernetes sets in every pod; some
/// platforms set a name instead of an address.
///
/// # Errors
/// When the value is neither an address nor a name.
pub(crate) fn kubernetes_api(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Host>, NoServiceHost> {
    let Some(written) = variable(SERVICE_HOST).filter(|text| !text.is_empty()) else { return Ok(None) };
    let bare = written.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&written);
    Host::parse(bare).map(Some).map_err(|_| NoServiceHost(written.clone()))
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_always_among_the_interfaces() {
        let found = interfaces().unwrap();
        assert!(found.iter().any(IpAddr::is_loopback), "{found:?}");
    }

    #[test]
    fn the_cluster_tells_where_its_api_is() {
        let told = |text: &str| {
            kubernetes_api(|name| (name == SERVICE_HOST).then(|| text.to_owned()))
                .map(|host| host.map(|host| host.to_string()))
        };
        assert_eq!(told("10.96.0.1"), Ok(Some("10.96.0.1".to_owned())));
        assert_eq!(told("fd00::1"), Ok(Some("fd00::1".to_owned())));
        assert_eq!(told("[fd00::1]"), Ok(Some("fd00::1".to_owned())));
        assert_eq!(told("api.example.com"), Ok(Some("api.example.com".to_owned())));
        assert_eq!(told(""), Ok(None));
        for wrong in ["https://10.96.0.1", "10.96.0.1:443", "10.96.1", "a b"] {
            let said = told(wrong).unwrap_err().to_string();
            assert!(said.contains(wrong) && said.contains("open_networks"), "{said}");
        }
        assert_eq!(kubernetes_api(|_| None), Ok(None));
    }
}
