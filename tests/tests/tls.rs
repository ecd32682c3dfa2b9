//! Providers are reached over TLS, and only when their certificate proves who they are.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use nullspend_e2e::{provider::FakeProvider, stack::Stack};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{CHAT, request, sdk::python};

/// Makes a certificate authority, and by it a server certificate for `host`.
async fn certificates(directory: &Path, host: &str) -> [PathBuf; 3] {
    let [authority, authority_key, server, server_key] =
        ["ca.pem", "ca.key", "server.pem", "server.key"].map(|name| directory.join(name));
    let new = |key: &Path, certificate: &Path| {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        command
            .args(["-days", "2", "-subj", "/CN=nullspend-test"])
            .arg("-keyout")
            .arg(key)
            .arg("-out")
            .arg(certificate);
        command
    };
    let made = new(&authority_key, &authority).output().await.expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = new(&server_key, &server);
    command.arg("-CA").arg(&authority).arg("-CAkey").arg(&authority_key);
    command.args([
        "-addext",
        &format!("subjectAltName=DNS:{host}"),
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    let made = command.output().await.expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    [authority, server, server_key]
}

/// A TLS edge in front of the provider, and its port.
async fn edge(provider: &FakeProvider, certificate: &Path, key: &Path) -> (Child, u16) {
    let url = provider.url();
    let (host, port) = url.trim_start_matches("http://").split_once(':').expect("host:port");
    let mut command = python("sdk/python/tls_relay.py");
    command.arg(certificate).arg(key).args([host, port]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("python runs");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let line = lines.next_line().await.expect("its output").expect("a port");
    (child, line.parse().expect("a port"))
}

async fn outcome_with(certified_host: &str, trust: bool) -> (bool, usize) {
    let provider = FakeProvider::start().await.expect("a provider");
    let directory = tempfile::tempdir().expect("a directory");
    let [authority, certificate, key] = certificates(directory.path(), certified_host).await;
    let (_edge, port) = edge(&provider, &certificate, &key).await;
    let mut builder = Stack::builder().upstream(&format!("https://localhost:{port}"));
    if trust {
        builder = builder.env("NULLSPEND_ENVOY_CA_FILE", &authority.display().to_string());
    }
    let stack = builder.start().await;
    let agent = stack.agent().await;
    let reply = stack.call(&agent.key, CHAT, request(CHAT, "hello", true)).await;
    (reply.status.is_success(), provider.calls().len())
}

#[tokio::test]
async fn a_provider_with_a_good_certificate_is_used() {
    assert_eq!(outcome_with("localhost", true).await, (true, 1));
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    assert_eq!(outcome_with("api.elsewhere.example", true).await, (false, 0));
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    assert_eq!(outcome_with("localhost", false).await, (false, 0));
}
