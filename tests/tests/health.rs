//! What a load balancer and a curious stranger see.

use http::Method;
use nullspend_e2e::stack::Stack;

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
