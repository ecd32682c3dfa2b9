use std::{collections::BTreeMap, error::Error as _, path::Path};

use secrecy::ExposeSecret as _;

use super::*;

fn load_with(
    file: Option<&Path>,
    env: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> Result<Config, ConfigError> {
    let env: BTreeMap<&str, &str> = env.iter().copied().collect();
    load(&Sources {
        file,
        variable: &|name| {
            env.get(name)
                .map(|value| (*value).to_owned())
                .or_else(|| (name == "HOME").then(|| "/home/x".to_owned()))
        },
        flags: flags.iter().map(|(path, value)| (*path, "--flag", (*value).to_owned())).collect(),
    })
}

fn in_file(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nullspend.toml");
    fs::write(&file, text).unwrap();
    load_with(Some(&file), &[], &[])
}

fn whole_message(error: &ConfigError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn the_defaults_are_what_the_documentation_says() {
    let config = load_with(None, &[], &[]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.data_dir, Path::new("/home/x/.local/share/nullspend"));
    assert!(config.database_url.is_none() && config.bootstrap_key.is_none());
    assert!(config.catalogue_file.is_none());
    assert_eq!(config.max_body_bytes, 32 << 20);
    assert!(config.envoy.concurrency >= 1);
    let urls: Vec<&str> = config.upstreams.iter().map(|row| row.base_url.as_str()).collect();
    assert_eq!(
        urls,
        [
            "https://api.openai.com",
            "https://api.anthropic.com",
            "https://api.groq.com/openai",
            "https://api.together.xyz",
            "https://api.fireworks.ai/inference",
            "https://api.mistral.ai",
            "https://openrouter.ai/api",
        ]
    );
}

#[test]
fn later_layers_win_key_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    fs::write(&file, "listen = \"127.0.0.1:1\"\nlog = \"debug\"\n[shutdown]\ngrace_ms = 1\n").unwrap();
    let config = load_with(
        Some(&file),
        &[
            ("NULLSPEND_LISTEN", "127.0.0.1:2"),
            ("NULLSPEND_SHUTDOWN_GRACE_MS", "2"),
            ("NULLSPEND_ENVOY", "/e"),
            ("NULLSPEND_PRICES_CATALOGUE_FILE", "/p.json"),
        ],
        &[("listen", "127.0.0.1:3")],
    )
    .unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.log, "debug");
    assert_eq!(config.shutdown_grace, Duration::from_millis(2));
    assert_eq!(config.envoy.binary.as_deref(), Some(Path::new("/e")));
    assert_eq!(config.catalogue_file.as_deref(), Some(Path::new("/p.json")));
}

#[test]
fn empty_variables_count_as_unset() {
    let env = [("NULLSPEND_LISTEN", ""), ("NULLSPEND_UPSTREAM_OPENAI", ""), ("NULLSPEND_REDIS_URL", "")];
    assert_eq!(load_with(None, &env, &[]).unwrap().listen.port(), 8080);
}

#[test]
fn the_two_upstream_variables_take_http_and_private_hosts() {
    let env = [
        ("NULLSPEND_UPSTREAM_OPENAI", "http://127.0.0.1:4000/v1/"),
        ("NULLSPEND_UPSTREAM_ANTHROPIC", "http://localhost:4000"),
    ];
    let config = load_with(None, &env, &[]).unwrap();
    assert_eq!(config.upstreams[0].base_url, "http://127.0.0.1:4000");
    assert_eq!(config.upstreams[1].base_url, "http://localhost:4000");
    assert_eq!(config.upstreams.len(), 7);
}

#[test]
fn rows_of_a_file_change_add_and_remove_upstreams() {
    let config = in_file(
        "[[upstreams]]\nname = \"groq\"\nenabled = false\n\
         [[upstreams]]\nname = \"openai\"\ninject_usage = false\nassume_priority = true\n\
         [[upstreams]]\nname = \"vllm\"\nbase_url = \"http://vllm:8000\"\napi = \"openai\"\nprovider = \"openai\"\n\
         allow_private = true\n",
    )
    .unwrap();
    let names: Vec<&str> = config.upstreams.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["openai", "anthropic", "together", "fireworks", "mistral", "openrouter", "vllm"]);
    assert!(!config.upstreams[0].inject_usage && config.upstreams[0].assume_priority);
    assert!(!config.upstreams[6].assume_priority);
}

/// Every file in testdata/config is refused, with the sentence its first line expects.
#[test]
fn bad_files_are_refused_with_a_sentence_that_says_what_to_change() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/config");
    let mut seen = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let file = entry.unwrap().path();
        let text = fs::read_to_string(&file).unwrap();
        let expected = text.lines().next().unwrap().strip_prefix("# ").unwrap();
        let error = load_with(Some(&file), &[], &[]).map(|_| ()).unwrap_err();
        let message = whole_message(&error);
        assert!(message.contains(expected), "{}: {message}", file.display());
        seen += 1;
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn bad_variables_are_refused_by_name() {
    let refused = |env: (&str, &str), expected: &str| {
        let message = whole_message(&load_with(None, &[env], &[]).map(|_| ()).unwrap_err());
        assert!(message.contains(expected), "{message}");
        message
    };
    refused(
        ("NULLSPEND_SHUTDOWN_GRACE_MS", "soon"),
        "from NULLSPEND_SHUTDOWN_GRACE_MS must be a whole number",
    );
    refused(("NULLSPEND_LISTEN", "localhost"), "`listen` is \"localhost\"; write an IP address and a port");
    refused(("NULLSPEND_REDIS_URL", "hunter2"), "`redis_url` must begin with one of redis://");
    let message = refused(
        ("NULLSPEND_REDIS_URL", "redis-sentinel://:hunter2@host"),
        "`redis_url` is not understood: the ledger's Redis URL cannot be used (the path must be the sentinels' name",
    );
    assert!(!message.contains("hunter2"));
    refused(("NULLSPEND_INTERNAL_JOIN_TOKEN", "short"), "`internal.join_token` must be at least 32 visible");
    refused(
        ("NULLSPEND_EXT_PROC_CONTROL_PLANE", "http://x"),
        "`ext_proc.control_plane` is \"http://x\"; write unix:",
    );
    refused(
        ("NULLSPEND_UPSTREAM_OPENAI", "ftp://x"),
        "upstream \"openai\": base_url must begin with https://",
    );
    let message =
        refused(("NULLSPEND_DATABASE_URL", "hunter2"), "`database_url` must begin with postgres://");
    assert!(!message.contains("hunter2"));
    let message =
        refused(("NULLSPEND_BOOTSTRAP_KEY", "ns_live_sk_SECRET"), "`bootstrap_key` must be ns_live_sk_");
    assert!(!message.contains("SECRET"));
}

#[test]
fn misspelt_variables_are_noticed() {
    let table = layers::defaults().unwrap();
    let present =
        ["NULLSPEND_LISTEM", "NULLSPEND_LISTEN", "NULLSPEND_ENVOY", "NULLSPEND_UPSTREAM_OPENAI", "PATH"];
    let unknown = layers::unknown_variables(&table, present.iter().map(|name| (*name).to_owned()));
    assert_eq!(unknown, ["NULLSPEND_LISTEM"]);
}

#[test]
fn secrets_are_kept_out_of_debug_output() {
    let key = format!("ns_live_sk_{}", "ab".repeat(16));
    let env = [("NULLSPEND_BOOTSTRAP_KEY", key.as_str()), ("NULLSPEND_DATABASE_URL", "postgres://u:pw@h/d")];
    let config = load_with(None, &env, &[]).unwrap();
    assert_eq!(config.bootstrap_key.as_ref().unwrap().expose_secret(), key);
    let shown = format!("{config:?}");
    assert!(!shown.contains("abab") && !shown.contains("pw@"), "{shown}");
}
