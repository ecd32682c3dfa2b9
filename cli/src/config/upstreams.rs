//! Which rows of the upstream table are safe to forward credentials to (design §3, contract §2.4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nullspend_core::{
    exchange::upstream::{Dialect, Upstream},
    usage::Vendor,
};
use serde::Deserialize;

use super::ConfigError;

/// Names that Envoy's own clusters have.
const RESERVED: &[&str] = &["control-plane", "ext-proc"];

/// A row as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    name: String,
    base_url: String,
    api: String,
    provider: String,
    vendor: String,
    inject_usage: bool,
    assume_priority: bool,
    allow_private: bool,
    enabled: bool,
}

/// Where an upstream's connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or IP literal, without brackets.
    pub host: String,
    /// Port, explicit or the scheme's.
    pub port: u16,
    /// https.
    pub tls: bool,
}

/// Checks every enabled row.
///
/// # Errors
/// The first row that is not safe or not understood, with what to change.
pub fn check(rows: Vec<Row>) -> Result<Vec<Upstream>, ConfigError> {
    rows.into_iter().filter(|row| row.enabled).map(|row| check_row(&row)).collect()
}

fn check_row(row: &Row) -> Result<Upstream, ConfigError> {
    let refuse = |reason: String| Err(ConfigError::Upstream { name: row.name.clone(), reason });
    let name_fits = (1..=63).contains(&row.name.len())
        && row.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !RESERVED.contains(&row.name.as_str());
    if !name_fits {
        return refuse(format!(
            "its name must be 1 to 63 of a-z, 0-9 and -, and none of {}",
            RESERVED.join(", ")
        ));
    }
    let dialect = match row.api.as_str() {
        "openai" => Dialect::OpenAi,
        "anthropic" => Dialect::Anthropic,
        other => return refuse(format!("api is {other:?}; write \"openai\" or \"anthropic\"")),
    };
    if row.provider.is_empty() {
        return refuse("provider is missing; name the provider whose prices apply, e.g. \"openai\"".into());
    }
    let unsaid = row.vendor.is_empty().then(|| Vendor::from(row.provider.as_str()));
    let Some(vendor) = unsaid.or_else(|| Vendor::parse(&row.vendor)) else {
        let known = Vendor::ALL.map(Vendor::as_str).join(", ");
        return refuse(format!("vendor is {:?}; write one of {known}", row.vendor));
    };
    let upstream = match Upstream::parse(&row.name, &row.base_url, dialect, &row.provider, row.inject_usage) {
        Ok(upstream) => upstream.answered_by(vendor).assuming_priority(row.assume_priority),
        Err(reason) => return refuse(format!("base_url {reason}")),
    };
    let Some(endpoint) = endpoint(&upstream) else {
        return refuse(
            "base_url must have the form https://host or https://host:port, and maybe a path".into(),
        );
    };
    if !row.allow_private && !endpoint.tls {
        return refuse(
            "base_url is http, and provider credentials must not travel in clear; use https://, or set \
             allow_private = true for a provider on your own network"
                .into(),
        );
    }
    if !row.allow_private && is_private(&endpoint.host) {
        return refuse(format!(
            "{} is a private, loopback or local host; set allow_private = true if it is your own provider",
            endpoint.host
        ));
    }
    Ok(upstream)
}

/// The endpoint of an upstream, or nothing if its authority is no `host` or `host:port`.
#[must_use]
pub fn endpoint(upstream: &Upstream) -> Option<Endpoint> {
    let tls = upstream.base_url.starts_with("https://");
    let authority = upstream.authority.as_str();
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")))
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port).filter(|port| !port.is_empty())),
            None => (authority, Some("")),
        }
    };
    let port = match port? {
        "" if tls => 443,
        "" => 80,
        port if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok().filter(|port| *port != 0)?,
        _ => return None,
    };
    is_host(host).then(|| Endpoint { host: host.to_owned(), port, tls })
}

/// An IP literal or a DNS name; numeric spellings of addresses that resolvers understand in their own ways are neither.
fn is_host(host: &str) -> bool {
    if host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let mut labels = host.split('.');
    let numeric = host.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_digit()));
    host.len() <= 253 && !numeric && labels.all(label_fits)
}

fn is_private(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => is_private_v4(ip),
        Ok(IpAddr::V6(ip)) => is_private_v6(ip),
        Err(_) => {
            let local = [".localhost", ".local", ".internal", ".lan", ".home.arpa"];
            !host.contains('.') || local.iter().any(|suffix| host.ends_with(suffix))
        }
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && (18..20).contains(&b))
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    // Anything but global unicast 2000::/3; and within it, addresses that carry an IPv4 one (6to4, Teredo).
    let [first, second, ..] = ip.segments();
    first & 0xe000 != 0x2000 || first == 0x2002 || (first == 0x2001 && second == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(base_url: &str, allow_private: bool) -> Row {
        Row {
            name: "mine".into(),
            base_url: base_url.into(),
            api: "openai".into(),
            provider: "openai".into(),
            vendor: String::new(),
            inject_usage: true,
            assume_priority: false,
            allow_private,
            enabled: true,
        }
    }

    #[test]
    fn public_https_hosts_are_taken_and_private_ones_refused_unless_allowed() {
        let public = [
            "https://api.openai.com/v1",
            "https://1.1.1.1",
            "https://[2606:4700::1111]:8443/x",
            "https://a.b:1",
        ];
        for url in public {
            assert!(check(vec![row(url, false)]).is_ok(), "{url}");
        }
        let private = [
            "http://api.openai.com",
            "https://127.0.0.1",
            "https://10.1.2.3/v1",
            "https://192.168.0.1",
            "https://172.16.0.1",
            "https://169.254.169.254",
            "https://100.64.0.1",
            "https://0.0.0.0",
            "https://[::1]",
            "https://[fd00::1]",
            "https://[::ffff:10.0.0.1]",
            "https://[2002:0a00:0001::1]",
            "https://localhost",
            "https://x.localhost",
            "https://metadata.google.internal",
            "https://vllm",
        ];
        for url in private {
            assert!(check(vec![row(url, false)]).is_err(), "{url}");
            assert!(check(vec![row(url, true)]).is_ok(), "{url}");
        }
    }

    #[test]
    fn what_is_no_base_url_is_refused_even_when_private_hosts_are_allowed() {
        let bad = [
            "",
            "api.openai.com",
            "ftp://x.y",
            "https://u:p@x.y",
            "https://x.y?a",
            "https://x.y#a",
            "https://x.y:0",
            "https://x.y:99999",
            "https://x.y:",
            "https://x.y:8a",
            "https://127.1",
            "https://2130706433",
            "https://0x7f.0x1",
            "https://-x.y",
            "https://x..y",
            "https://[::1",
            "https://[x]",
            "https://x_y.z",
            "https://a b.c",
        ];
        for url in bad {
            assert!(check(vec![row(url, true)]).is_err(), "{url}");
        }
    }

    #[test]
    fn endpoints_have_the_scheme_s_port() {
        let endpoint_of = |url| endpoint(&check(vec![row(url, true)]).unwrap()[0]).unwrap();
        assert_eq!(endpoint_of("https://x.y/v1"), Endpoint { host: "x.y".into(), port: 443, tls: true });
        assert_eq!(
            endpoint_of("http://127.0.0.1:9"),
            Endpoint { host: "127.0.0.1".into(), port: 9, tls: false }
        );
        assert_eq!(endpoint_of("http://[::1]"), Endpoint { host: "::1".into(), port: 80, tls: false });
    }

    #[test]
    fn names_providers_and_apis_are_checked_and_disabled_rows_are_not() {
        let mut reserved = row("https://x.y", false);
        reserved.name = "ext-proc".into();
        assert!(check(vec![reserved]).is_err());
        let mut api = row("https://x.y", false);
        api.api = "gemini".into();
        assert!(check(vec![api.clone()]).is_err());
        api.enabled = false;
        assert_eq!(check(vec![api]).unwrap(), vec![]);
    }
}
