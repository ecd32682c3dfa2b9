//! `nullspend check-config`: what is in force, secrets hidden.

use std::fmt::Write as _;

use crate::config::Config;

/// The settings in force, one a line.
#[must_use]
pub fn describe(config: &Config) -> String {
    let database = match &config.database_url {
        None => format!("SQLite in {}", config.data_dir.display()),
        Some(_) => "given (hidden)".to_owned(),
    };
    let rows = [
        ("listen", config.listen.to_string()),
        ("data_dir", config.data_dir.display().to_string()),
        ("database", database),
        (
            "bootstrap_key",
            if config.bootstrap_key.is_some() { "given (hidden)" } else { "made up at the first start" }
                .into(),
        ),
        ("log", config.log.clone()),
        (
            "envoy",
            config.envoy.binary.as_ref().map_or("`envoy` on PATH".into(), |path| path.display().to_string()),
        ),
        ("envoy.concurrency", config.envoy.concurrency.to_string()),
        ("limits.max_body_bytes", config.max_body_bytes.to_string()),
        ("limits.max_bodies_in_flight_bytes", config.max_bodies_in_flight_bytes.to_string()),
        ("rate_limits", {
            let limits = config.rate_limits;
            let calls = |calls: Option<std::num::NonZeroU32>| {
                calls.map_or("any number".to_owned(), |calls| calls.to_string())
            };
            format!(
                "calls a minute: {} of an address, {} of a key, {} of a key to the API",
                calls(limits.ip_calls_per_minute),
                calls(limits.key_calls_per_minute),
                calls(config.api_calls_per_minute)
            )
        }),
        ("shutdown.grace_ms", config.shutdown_grace.as_millis().to_string()),
        ("ledger", {
            let place = if config.redis_url.is_some() { "in Redis (hidden)" } else { "in this process" };
            format!("{place}, leases of {} ms", config.lease_ms)
        }),
        ("prices.catalogue_file", {
            let file = config.catalogue_file.as_ref();
            file.map_or("the program's own".into(), |path| path.display().to_string())
        }),
        ("spool", format!("{:?}, at most {} bytes", config.spool.fsync, config.spool.max_bytes)),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<34}{value}");
    }
    for upstream in &config.upstreams {
        let _ = writeln!(
            text,
            "{:<34}{} (prices of {}, usage of {})",
            format!("upstream {}", upstream.name),
            upstream.base_url,
            upstream.provider,
            upstream.vendor.as_str()
        );
    }
    text.push_str("the configuration can be used\n");
    text
}
