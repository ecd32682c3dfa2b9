//! Envoy's configuration file: the template of `envoy/` with its placeholders filled in.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use nullspend_core::exchange::upstream::Upstream;
use serde_json::{Value, json};

use crate::{
    address::Address,
    config::{AccessLog, Config, upstreams::endpoint},
    paths::Paths,
};

const TEMPLATE: &str = include_str!("../../../envoy/bootstrap.template.yaml");

/// A configuration that cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The template and this module disagree: a bug, caught by a test.
    #[error("envoy/bootstrap.template.yaml has a placeholder that nothing fills: {0}")]
    Placeholder(String),
    /// An upstream whose base URL has no host and port.
    #[error("upstream {0:?} has no host to connect to")]
    Upstream(String),
}

/// The configuration of an Envoy before separate planes, as `nullspend envoy-config` prints it.
///
/// # Errors
/// The data directory cannot be used, or any [`BootstrapError`].
pub fn separate(config: &Config) -> anyhow::Result<String> {
    let paths = Paths::prepare(&config.data_dir)?;
    Ok(Bootstrap::of(config, &paths).render()?)
}

/// What the template needs to know.
#[derive(Clone, Debug)]
pub struct Bootstrap<'a> {
    /// The one TCP address.
    pub listen: SocketAddr,
    /// Longest request body, bytes.
    pub max_body_bytes: u32,
    /// Request bodies held at once, bytes.
    pub max_bodies_in_flight_bytes: usize,
    /// Client connections at most.
    pub max_connections: u32,
    /// Proxies before Envoy whose `x-forwarded-for` is believed.
    pub trusted_proxies: u32,
    /// Whether the data plane is told who calls.
    pub tells_client: bool,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// The file of [`AccessLog::File`].
    pub access_log_file: PathBuf,
    /// Envoy's admin interface.
    pub admin_socket: PathBuf,
    /// The data plane.
    pub ext_proc: Address,
    /// The control plane's gRPC and REST.
    pub control_plane: Address,
    /// Certificate authorities for providers.
    pub ca_file: &'a Path,
    /// Where calls may go.
    pub upstreams: &'a [Upstream],
}

impl<'a> Bootstrap<'a> {
    /// As configured.
    #[must_use]
    pub fn of(config: &'a Config, paths: &Paths) -> Self {
        Self {
            listen: config.listen,
            max_body_bytes: config.max_body_bytes,
            max_bodies_in_flight_bytes: config.max_bodies_in_flight_bytes,
            max_connections: config.envoy.max_connections,
            trusted_proxies: config.envoy.trusted_proxies,
            tells_client: config.rate_limits.ip_calls_per_minute.is_some(),
            access_log: config.envoy.access_log,
            access_log_file: paths.access_log(),
            admin_socket: paths.socket("envoy"),
            ext_proc: config.ext_proc.listen(paths),
            control_plane: config.envoy.control_plane(paths),
            ca_file: &config.envoy.ca_file,
            upstreams: &config.upstreams,
        }
    }
}

impl Bootstrap<'_> {
    /// The whole file.
    ///
    /// # Errors
    /// Any [`BootstrapError`].
    pub fn render(&self) -> Result<String, BootstrapError> {
        let mut clusters = String::new();
        for upstream in self.upstreams {
            clusters.push_str("  - ");
            clusters.push_str(&self.cluster(upstream)?.to_string());
            clusters.push('\n');
        }
        let too_large = format!("request bodies may be up to {} bytes", self.max_body_bytes);
        let not_found =
            json!({ "error": { "code": "not_found", "message": "no such route", "details": null } });
        let (ext_proc, control_plane) = (self.ext_proc.envoy(), self.control_plane.envoy());
        let values = [
            ("admin_socket", json!(self.admin_socket)),
            ("max_connections", json!(self.max_connections)),
            // What our own side may hold, twice (an upload and its copy on the way to us), and room for everything else.
            ("max_heap_bytes", json!(2 * self.max_bodies_in_flight_bytes as u64 + (1 << 30))),
            ("listen_address", json!(self.listen.ip().to_string())),
            ("listen_port", json!(self.listen.port())),
            ("max_body_bytes", json!(self.max_body_bytes)),
            ("trusted_proxies", json!(self.trusted_proxies)),
            ("request_attributes", if self.tells_client { json!(["source.address"]) } else { json!([]) }),
            ("access_log", self.access_log()),
            ("too_large_message", json!(too_large)),
            ("not_found_body", json!(not_found.to_string())),
            ("ext_proc_type", json!(ext_proc.0)),
            ("ext_proc_address", ext_proc.1),
            ("control_plane_type", json!(control_plane.0)),
            ("control_plane_address", control_plane.1),
        ];
        let mut text = String::new();
        for line in TEMPLATE.lines() {
            if line.trim_start().starts_with('#') {
                continue;
            }
            if line == "{{upstream_clusters}}" {
                text.push_str(&clusters);
                continue;
            }
            let mut line = line.to_owned();
            for (name, value) in &values {
                line = line.replace(&format!("{{{{{name}}}}}"), &value.to_string());
            }
            if line.contains("{{") {
                return Err(BootstrapError::Placeholder(line));
            }
            text.push_str(&line);
            text.push('\n');
        }
        Ok(text)
    }

    fn cluster(&self, upstream: &Upstream) -> Result<Value, BootstrapError> {
        let endpoint = endpoint(upstream).ok_or_else(|| BootstrapError::Upstream(upstream.name.clone()))?;
        let is_ip = endpoint.host.parse::<std::net::IpAddr>().is_ok();
        let mut protocol = json!({
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            // Shorter than providers keep idle connections, so that a request does not meet one being closed.
            "common_http_protocol_options": { "idle_timeout": "30s", "max_headers_count": 1000 },
        });
        // TLS: whichever of h2 and http/1.1 the provider offers.
        let version = if endpoint.tls { "auto_config" } else { "explicit_http_config" };
        protocol[version] = if endpoint.tls { json!({}) } else { json!({ "http_protocol_options": {} }) };
        let mut cluster = json!({
            "name": upstream.name,
            "type": if is_ip { "STATIC" } else { "LOGICAL_DNS" },
            "connect_timeout": "10s",
            "upstream_connection_options": {
                "tcp_keepalive": { "keepalive_time": 60, "keepalive_interval": 15, "keepalive_probes": 4 },
            },
            "circuit_breakers": { "thresholds": [{
                "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000,
            }] },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol,
            },
            "load_assignment": {
                "cluster_name": upstream.name,
                "endpoints": [{ "lb_endpoints": [{ "endpoint": {
                    "address": { "socket_address": { "address": endpoint.host, "port_value": endpoint.port } },
                    // What auto_host_rewrite writes: host and port as the operator gave them.
                    "hostname": upstream.authority,
                } }] }],
            },
        });
        if !is_ip {
            // Both families, tried side by side: many machines have only one that works.
            cluster["dns_lookup_family"] = json!("ALL");
        }
        if endpoint.tls {
            cluster["transport_socket"] = self.tls(&endpoint.host, is_ip);
        }
        Ok(cluster)
    }

    fn tls(&self, host: &str, is_ip: bool) -> Value {
        let san_type = if is_ip { "IP_ADDRESS" } else { "DNS" };
        let mut context = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "tls_params": { "tls_minimum_protocol_version": "TLSv1_2" },
                "validation_context": {
                    "trusted_ca": { "filename": self.ca_file },
                    "match_typed_subject_alt_names": [{ "san_type": san_type, "matcher": { "exact": host } }],
                },
            },
        });
        if !is_ip {
            context["sni"] = json!(host);
        }
        json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
    }

    /// No header that could be a credential, and no query string.
    fn access_log(&self) -> Value {
        let format = json!({ "json_format": {
            "time": "%START_TIME%",
            "method": "%REQ(:METHOD)%",
            "path": "%PATH(NQ)%",
            "protocol": "%PROTOCOL%",
            "route": "%ROUTE_NAME%",
            "status": "%RESPONSE_CODE%",
            "flags": "%RESPONSE_FLAGS%",
            "details": "%RESPONSE_CODE_DETAILS%",
            "bytes_in": "%BYTES_RECEIVED%",
            "bytes_out": "%BYTES_SENT%",
            "duration_ms": "%DURATION%",
            "upstream": "%UPSTREAM_CLUSTER%",
            "upstream_host": "%UPSTREAM_HOST%",
            "trace_id": "%RESP(X-NULLSPEND-TRACE-ID)%",
            "request_id": "%REQ(X-REQUEST-ID)%",
            "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        } });
        match self.access_log {
            AccessLog::Off => json!([]),
            AccessLog::Stdout => json!([{ "name": "stdout", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                "log_format": format,
            } }]),
            AccessLog::File => json!([{ "name": "file", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": self.access_log_file,
                "log_format": format,
            } }]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use nullspend_core::exchange::upstream::Dialect;

    use super::*;

    fn render(dir: &Path, access_log: AccessLog, urls: &[&str]) -> String {
        let upstreams: Vec<Upstream> = urls
            .iter()
            .enumerate()
            .map(|(i, url)| Upstream::parse(&format!("u{i}"), url, Dialect::OpenAi, "openai", true).unwrap())
            .collect();
        let ca_file = dir.join("ca.pem");
        Bootstrap {
            listen: "127.0.0.1:0".parse().unwrap(),
            max_body_bytes: 32 << 20,
            max_bodies_in_flight_bytes: 512 << 20,
            max_connections: 100,
            trusted_proxies: 1,
            tells_client: true,
            access_log,
            access_log_file: dir.join("access.log"),
            admin_socket: dir.join("a\"d.sock"),
            ext_proc: Address::Unix(dir.join("e.sock")),
            control_plane: Address::Unix(dir.join("c.sock")),
            ca_file: if Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
                Path::new("/etc/ssl/certs/ca-certificates.crt")
            } else {
                &ca_file
            },
            upstreams: &upstreams,
        }
        .render()
        .unwrap()
    }

    /// Needs NULLSPEND_ENVOY or `envoy` on PATH; `cargo xtask test` provides it.
    #[test]
    fn envoy_takes_the_configuration_of_every_kind_of_upstream() {
        let envoy = crate::envoy::binary::find(
            std::env::var_os("NULLSPEND_ENVOY").map(std::path::PathBuf::from).as_deref(),
        )
        .expect("`cargo xtask test` provides Envoy");
        let tables: [(AccessLog, &[&str]); 4] = [
            (
                AccessLog::File,
                &["https://api.openai.com", "https://api.groq.com/openai", "http://localhost:4000/v1"],
            ),
            (
                AccessLog::Stdout,
                &["http://127.0.0.1:1", "http://[::1]:2", "https://10.0.0.1:3/x", "https://[fd00::1]"],
            ),
            (AccessLog::Off, &["https://xn--bcher-kva.example:8443"]),
            (AccessLog::Off, &[]),
        ];
        for (access_log, urls) in tables {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("envoy.yaml");
            fs::write(&file, render(dir.path(), access_log, urls)).unwrap();
            let output = Command::new(&envoy.path)
                .args(["--mode", "validate", "--log-level", "error", "-c"])
                .arg(&file)
                .output()
                .unwrap();
            assert!(output.status.success(), "{urls:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    #[test]
    fn only_the_ingress_is_tcp_and_only_ext_proc_reaches_a_provider() {
        let text = render(Path::new("/tmp"), AccessLog::Off, &[]);
        assert_eq!(text.matches("socket_address").count(), 1);
        assert!(!text.contains("nullspend.internal") && !text.contains("failure_mode_allow: true"));
        let provider = text.split("name: provider").nth(1).unwrap();
        let provider = provider.split("- name:").next().unwrap();
        assert!(provider.contains("x-nullspend-cluster, present_match: true"));
        assert_eq!(text.matches("cluster_header: x-nullspend-cluster").count(), 1);
        assert!(text.contains("{remove: x-nullspend-cluster}"));
        assert!(!text.contains("retry_policy"));
    }

    #[test]
    fn the_provider_is_verified_by_name() {
        let text = render(Path::new("/tmp"), AccessLog::Off, &["https://api.openai.com"]);
        assert!(text.contains(r#""sni":"api.openai.com""#));
        assert!(text.contains(r#"{"matcher":{"exact":"api.openai.com"},"san_type":"DNS"}"#));
    }
}
