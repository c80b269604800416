//! The proxy that stands between this computer and the hub, as the environment names it.

use std::env;

use ureq::Proxy;

use super::Result;
use super::error::LibraryError;

/// Where a proxy is named. One for encrypted connections comes before one for everything, as in other programs; that for
/// unencrypted ones is taken where there is no other.
const VARIABLES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "HTTP_PROXY",
    "http_proxy",
];
/// Where the hosts are listed that are asked without it.
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The proxy to use; none where none is named.
///
/// # Errors
/// When what is named is none: without it the network would be used in another way than the one that was asked for.
pub(super) fn from_environment() -> Result<Option<Proxy>> {
    named(&|name| env::var(name).ok())
}

fn named(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Proxy>> {
    let value = |name: &'static str| {
        let value = variable(name)?.trim().to_owned();
        (!value.is_empty()).then_some((name, value))
    };
    let Some((name, address)) = VARIABLES.into_iter().find_map(value) else {
        return Ok(None);
    };
    // The address itself is not shown: it may hold a password.
    let refuse = |_| LibraryError::NoProxy { variable: name };
    let proxy = Proxy::new(&address).map_err(refuse)?;
    let mut whole = Proxy::builder(proxy.protocol())
        .host(proxy.host())
        .port(proxy.port())
        .resolve_target(proxy.resolve_target());
    if let Some(user) = proxy.username() {
        whole = whole.username(user);
    }
    if let Some(password) = proxy.password() {
        whole = whole.password(password);
    }
    if let Some((_, hosts)) = EXCEPTIONS.into_iter().find_map(value) {
        let hosts = hosts.split(',').map(str::trim);
        whole = hosts
            .filter(|host| !host.is_empty())
            .fold(whole, ureq::ProxyBuilder::no_proxy);
    }
    whole.build().map(Some).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use ureq::ProxyProtocol;

    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Proxy>> {
        named(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_proxy_for_encrypted_connections_comes_before_one_for_everything() {
        let all = ("ALL_PROXY", "socks5h://all.example:9050");
        let proxy = of(&[all]).unwrap().unwrap();
        assert_eq!(proxy.protocol(), ProxyProtocol::Socks5h);
        assert_eq!((proxy.host(), proxy.port()), ("all.example", 9050));
        assert!(!proxy.resolve_target(), "the proxy knows the names");
        for name in ["HTTPS_PROXY", "https_proxy"] {
            let proxy = of(&[all, (name, "http://me:a%20b@own.example:8080")]);
            let proxy = proxy.unwrap().unwrap();
            assert_eq!(proxy.protocol(), ProxyProtocol::Http);
            assert_eq!((proxy.host(), proxy.port()), ("own.example", 8080));
            assert_eq!(proxy.username(), Some("me"));
            assert_eq!(proxy.password(), Some("a b"));
        }
        let proxy = of(&[("HTTPS_PROXY", " "), all, ("HTTP_PROXY", "plain.example")]);
        assert_eq!(proxy.unwrap().unwrap().host(), "all.example");
        let proxy = of(&[("http_proxy", "plain.example:81")]).unwrap().unwrap();
        assert_eq!((proxy.host(), proxy.port()), ("plain.example", 81));
        assert_eq!(of(&[]).unwrap(), None);
    }

    #[test]
    fn some_hosts_are_asked_without_it() {
        let proxy = of(&[
            ("HTTPS_PROXY", "http://own.example"),
            ("no_proxy", "one.example, .two.example,"),
        ]);
        let proxy = proxy.unwrap().unwrap();
        for (address, without) in [
            ("https://one.example/a", true),
            ("https://a.two.example/a", true),
            ("https://three.example/a", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(proxy.is_no_proxy(&address), without, "{address}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_showing_it() {
        for address in ["ftp://me:secret@own.example", "http://", "a b"] {
            let error = of(&[("ALL_PROXY", address)]).unwrap_err();
            let text = format!("{error} {} {error:?}", error.advice());
            assert!(
                text.contains("ALL_PROXY") && text.contains("socks5h"),
                "{text}"
            );
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
