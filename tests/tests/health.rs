//! What a load balancer and a curious stranger see.

use std::{collections::BTreeSet, fs};

use http::Method;
use nullspend_e2e::{program::children, stack::Stack};

#[tokio::test]
async fn health_is_public_and_operations_are_not() {
    let stack = Stack::start().await;
    let get =
        async |path: &str| stack.http.send(&Method::GET, &format!("{}{path}", stack.url), &[], "").await;
    let alive = get("/health").await.expect_status(200);
    assert_eq!(alive.json()["status"], "ok");
    let ready = get("/health/ready").await.expect_status(200);
    assert_eq!(ready.json()["status"], "ok");
    for hidden in [
        "/metrics",
        "/stats",
        "/config_dump",
        "/ready",
        "/quitquitquit",
        "/nullspend.internal.v1.DataPlaneService/Watch",
    ] {
        let reply = get(hidden).await;
        assert_eq!(reply.status.as_u16(), 404, "{hidden}: {reply:?}");
    }
    for api in ["/api/keys", "/api/budgets", "/api/cost-events", "/api/auth/introspect", "/v1/policy"] {
        let reply = get(api).await.expect_status(401);
        assert_eq!(reply.code(), "authentication_required", "{api}");
    }
    let document = get("/api/openapi.json").await.expect_status(200).json();
    assert!(
        document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")),
        "{}",
        document["openapi"]
    );
    assert!(document["paths"]["/api/budgets"]["post"].is_object());
}

/// Inodes of the TCP sockets that listen, and their local ports.
fn listening() -> Vec<(String, u16)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
            (*fields.get(3)? == "0A").then(|| Some(((*fields.get(9)?).to_owned(), port)))?
        })
        .collect()
}

fn sockets_of(pid: u32) -> BTreeSet<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|file| {
        let target = fs::read_link(file.path()).ok()?.display().to_string();
        Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    })
    .collect()
}

#[tokio::test]
async fn the_ingress_is_the_only_tcp_port() {
    let stack = Stack::start().await;
    let processes: Vec<u32> = children(stack.pid()).into_iter().chain([stack.pid()]).collect();
    assert!(processes.len() >= 2, "the program and its Envoy");
    let owned: BTreeSet<String> = processes.into_iter().flat_map(sockets_of).collect();
    let ports: Vec<u16> =
        listening().into_iter().filter(|(inode, _)| owned.contains(inode)).map(|(_, port)| port).collect();
    let ingress: u16 = stack.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    assert_eq!(ports, [ingress]);
}
