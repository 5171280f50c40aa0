//! The addresses that lead back to the bastion, or to the cluster's API: no rule opens them.

use std::{io, net::IpAddr};

use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};

/// The addresses of this machine's, or this pod's, network interfaces.
///
/// # Errors
/// When the system does not tell.
pub fn interfaces() -> io::Result<Vec<IpAddr>> {
    Ok(getifaddrs()?.filter_map(|interface| ip(&interface.address?)).collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// The API server of the cluster that this pod runs in, which every pod is told in its environment.
pub fn kubernetes_api(variable: impl Fn(&str) -> Option<String>) -> Vec<IpAddr> {
    variable("KUBERNETES_SERVICE_HOST").and_then(|host| host.parse().ok()).into_iter().collect()
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
        assert_eq!(
            kubernetes_api(|_| Some("10.96.0.1".to_owned())),
            ["10.96.0.1".parse::<IpAddr>().unwrap()]
        );
        assert!(kubernetes_api(|_| None).is_empty());
    }
}
