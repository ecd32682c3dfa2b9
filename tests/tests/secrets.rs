//! Secrets stay in the requests that carry them: not in logs, not in the data directory, not in answers.

use std::fs;

use http::Method;
use nullspend_e2e::stack::Stack;
use serde_json::{Value, json};

use crate::{CHAT, MESSAGES, request};

const PROVIDER_KEY: &str = "sk-provider-credential";
const PROMPT: &str = "canary-prompt-7f3e9a";
const WRONG_KEY: &str = "ns_live_sk_deadbeefdeadbeefdeadbeefdeadbeef";

#[tokio::test]
async fn no_file_of_the_product_holds_a_credential_or_a_prompt() {
    let mut stack = Stack::builder().env("NULLSPEND_LOG", "debug").start().await;
    let agent = stack.agent().await;
    let budget = stack.limit_key(&agent, 1_000_000_000).await;
    for (path, stream, control) in
        [(CHAT, false, ""), (MESSAGES, true, ""), (CHAT, true, "reset_at=2"), (CHAT, false, "status=401")]
    {
        let body = request(path, &format!("{PROMPT} [[fake tokens=6 {control}]]"), stream);
        let opened = stack.open(&stack.http, &agent.key, path, body).await;
        opened.expect("an answer").rest().await;
    }
    stack.wait_events(4).await;
    stack.limit_key(&agent, 1).await;
    let _ = stack.call(&agent.key, CHAT, request(CHAT, PROMPT, false)).await.expect_status(429);
    let _ = stack.call(WRONG_KEY, CHAT, request(CHAT, PROMPT, false)).await.expect_status(401);
    let _ = stack.api(WRONG_KEY, Method::GET, "/api/budgets", Value::Null).await.expect_status(401);
    let named = json!({"name": "x", "role": agent.key});
    let _ = stack.api(&stack.owner, Method::POST, "/api/keys", named).await.expect_status(400);
    let url = format!("{}{CHAT}?key={PROVIDER_KEY}", stack.url);
    let _ = stack.http.send(&Method::POST, &url, &[("x-nullspend-key", &agent.key)], PROMPT).await;
    stack.wait_no_holds(&budget).await;
    stack.terminate();
    assert!(stack.ended().await.success());

    let secrets = [PROVIDER_KEY, PROMPT, WRONG_KEY, agent.key.as_str(), stack.owner.as_str()];
    let mut leaks = Vec::new();
    for file in stack.files() {
        let text = fs::read(&file).expect("a readable file");
        for secret in secrets {
            let found = text.windows(secret.len()).any(|part| part == secret.as_bytes());
            // The start's own words on stdout name the owner key, once.
            if found && !(file.ends_with("out.log") && secret == stack.owner) {
                leaks.push(format!("{secret} in {}", file.display()));
            }
        }
    }
    assert!(leaks.is_empty(), "{leaks:#?}");
}
