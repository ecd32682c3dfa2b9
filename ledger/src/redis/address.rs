//! What `redis_url` names: a server, the sentinels that know which server it is, or some servers of a cluster.

use percent_encoding::percent_decode_str;
use redis::{ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use super::InvalidRedisConfig;

/// A host and its port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Of several servers, how each is logged in to.
#[derive(Debug)]
pub(super) struct Several {
    pub(super) nodes: Vec<Node>,
    pub(super) login: RedisConnectionInfo,
    pub(super) tls: bool,
}

#[derive(Debug)]
pub(super) enum Place {
    One(ConnectionInfo),
    /// Sentinels, with the login to the server they name; their own login; and the name they have for it.
    Sentinels {
        sentinels: Several,
        own_login: RedisConnectionInfo,
        master: String,
    },
    Cluster(Several),
}

impl Place {
    /// Reads the URL. What is refused is told without any of its text, which may be a password.
    pub(super) fn of(url: &str) -> Result<Self, InvalidRedisConfig> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let tls = scheme.starts_with("rediss");
        match scheme {
            "redis-sentinel" | "rediss-sentinel" => sentinels(rest, tls),
            "redis-cluster" | "rediss-cluster" => cluster(rest, tls),
            "redis" | "rediss" | "redis+unix" => {
                let invalid = |cause: redis::RedisError| InvalidRedisConfig::Url(cause.category().to_owned());
                let info = url.into_connection_info().map_err(invalid)?;
                let login = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
                Ok(Self::One(info.set_redis_settings(login)))
            }
            _ => refused("it begins otherwise"),
        }
    }

    /// Whether servers are talked to over TLS.
    pub(super) fn tls(&self) -> bool {
        match self {
            Self::One(info) => matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }),
            Self::Sentinels { sentinels: several, .. } | Self::Cluster(several) => several.tls,
        }
    }
}

fn sentinels(rest: &str, tls: bool) -> Result<Place, InvalidRedisConfig> {
    let parts = Parts::of(rest, 26_379)?;
    let master = decoded(parts.path)?;
    if master.is_empty() || master.contains('/') {
        return refused("the path must be the sentinels' name of the master, as in host:26379/mymaster");
    }
    let (mut login, mut own_login) = (parts.login, protocol());
    for (name, value) in parts.parameters {
        let value = decoded(value)?;
        match name {
            "db" => {
                let db = value.parse().ok().filter(|db| *db >= 0);
                let Some(db) = db else { return refused("db must be the number of a database") };
                login = login.set_db(db);
            }
            "sentinel_username" => own_login = own_login.set_username(value),
            "sentinel_password" => own_login = own_login.set_password(value),
            _ => return refused("its parameters may be db, sentinel_username and sentinel_password"),
        }
    }
    Ok(Place::Sentinels { sentinels: Several { nodes: parts.nodes, login, tls }, own_login, master })
}

fn cluster(rest: &str, tls: bool) -> Result<Place, InvalidRedisConfig> {
    let parts = Parts::of(rest, 6_379)?;
    if !parts.path.is_empty() || !parts.parameters.is_empty() {
        return refused("a cluster has database 0 alone: nothing may follow its hosts");
    }
    Ok(Place::Cluster(Several { nodes: parts.nodes, login: parts.login, tls }))
}

/// What a URL of several hosts has after its scheme, not yet decoded but for the login.
struct Parts<'a> {
    login: RedisConnectionInfo,
    nodes: Vec<Node>,
    path: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str, port: u16) -> Result<Self, InvalidRedisConfig> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user_and_password, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = user_and_password.split_once(':').unwrap_or((user_and_password, ""));
        let mut login = protocol();
        if !user.is_empty() {
            login = login.set_username(decoded(user)?);
        }
        if !password.is_empty() {
            login = login.set_password(decoded(password)?);
        }
        let nodes = hosts.split(',').map(|host| node(host, port)).collect::<Result<_, _>>()?;
        let parameters = query.split('&').filter(|pair| !pair.is_empty());
        let parameters = parameters.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        Ok(Self { login, nodes, path: path.trim_end_matches('/'), parameters })
    }
}

fn protocol() -> RedisConnectionInfo {
    RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3)
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn node(text: &str, port: u16) -> Result<Node, InvalidRedisConfig> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.split_once(']'));
    let (host, port_text) = match bracketed {
        Some((host, rest)) => (host, if rest.is_empty() { None } else { Some(rest.trim_start_matches(':')) }),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return refused("each host must be a name or an address, with a comma between two");
    }
    let port = port_text.map_or(Some(port), |port| port.parse().ok().filter(|port| *port > 0));
    let Some(port) = port else { return refused("a port must be a number from 1 to 65535") };
    Ok(Node { host: host.to_owned(), port })
}

fn decoded(text: &str) -> Result<String, InvalidRedisConfig> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => refused("a name or password is not percent-encoded UTF-8"),
    }
}

fn refused<T>(reason: &str) -> Result<T, InvalidRedisConfig> {
    Err(InvalidRedisConfig::Url(reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn several(place: Place) -> Several {
        let (Place::Sentinels { sentinels: several, .. } | Place::Cluster(several)) = place else {
            panic!("one server")
        };
        several
    }

    fn nodes<const N: usize>(nodes: [(&str, u16); N]) -> Vec<Node> {
        nodes.map(|(host, port)| Node { host: host.to_owned(), port }).to_vec()
    }

    #[test]
    fn sentinels_have_a_login_of_their_own_and_a_name_for_the_master() {
        let url = "redis-sentinel://us%40er:p%2Fw@one:26380,[::1]/my%20master?db=3&sentinel_username=s&sentinel_password=p%26q";
        let Ok(Place::Sentinels { sentinels, own_login, master }) = Place::of(url) else {
            panic!("not sentinels")
        };
        assert_eq!(master, "my master");
        assert_eq!((own_login.username(), own_login.password()), (Some("s"), Some("p&q")));
        let place = Place::Sentinels { sentinels, own_login, master };
        assert!(!place.tls());
        let Several { nodes: named, login, tls } = several(place);
        assert_eq!((named, tls), (nodes([("one", 26_380), ("::1", 26_379)]), false));
        assert_eq!((login.username(), login.password(), login.db()), (Some("us@er"), Some("p/w"), 3));
    }

    #[test]
    fn a_cluster_is_named_by_some_of_its_servers() {
        let place = Place::of("rediss-cluster://:secret@one,two:7000,[fe80::1]:7001").unwrap();
        assert!(place.tls());
        let Several { nodes: named, login, tls } = several(place);
        assert_eq!((named, tls), (nodes([("one", 6_379), ("two", 7_000), ("fe80::1", 7_001)]), true));
        assert_eq!((login.username(), login.password(), login.db()), (None, Some("secret"), 0));
    }

    #[test]
    fn one_server_is_asked_in_the_newer_protocol() {
        for (url, tls) in [("redis://:pw@host/2", false), ("rediss://host", true), ("redis+unix:///s", false)]
        {
            let place = Place::of(url).unwrap();
            assert_eq!(place.tls(), tls);
            let Place::One(info) = place else { panic!("several") };
            assert_eq!(info.redis_settings().protocol(), ProtocolVersion::RESP3);
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_with_what_to_change_and_without_its_text() {
        for (url, told) in [
            ("redis-sentinel://:hunter2@host", "name of the master"),
            ("redis-sentinel://:hunter2@host/a/b", "name of the master"),
            ("redis-sentinel://host/m?db=hunter2", "number of a database"),
            ("redis-sentinel://host/m?hunter2=1", "sentinel_username"),
            ("redis-sentinel://:hunter%ff2@host/m", "percent-encoded"),
            ("redis-cluster://", "each host"),
            ("redis-cluster://:hunter2@one,,two", "each host"),
            ("redis-cluster://one:hunter2", "1 to 65535"),
            ("redis-cluster://one:0", "1 to 65535"),
            ("redis-cluster://one/1", "database 0 alone"),
            ("redis-cluster://one?db=1", "database 0 alone"),
            ("http://:hunter2@host", "begins otherwise"),
            ("redis://:hunter2@", "invalid"),
            ("hunter2", "begins otherwise"),
        ] {
            let refused = Place::of(url).unwrap_err().to_string();
            assert!(refused.contains(told) && !refused.contains("hunter"), "{url}: {refused}");
        }
    }
}
