//! The operator's price catalogue is in force without a restart, and one that cannot be used is not.

use std::{collections::BTreeMap, fs, path::PathBuf};

use nullspend_e2e::{
    console::{Agent, eventually, nanos},
    program,
    stack::Stack,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    CHAT,
    metrics::{scrape, value},
    request,
};

const SHIPPED: &str = include_str!("../../core/catalogue/prices.json");

/// A catalogue file of its own.
struct File(TempDir);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("prices.json")
    }

    /// Puts a text in the place of the one before, at once.
    fn write(&self, text: &str) {
        let draft = self.0.path().join("draft");
        fs::write(&draft, text).expect("a file");
        fs::rename(&draft, self.path()).expect("a file in place of another");
    }

    /// The shipped catalogue with these rates of gpt-4o-mini, in pico-dollars.
    fn price(&self, version: &str, input: u64, output: u64) {
        let mut catalogue: Value = serde_json::from_str(SHIPPED).expect("the shipped catalogue");
        catalogue["version"] = version.into();
        let models = catalogue["models"].as_array_mut().expect("models");
        let model = models.iter_mut().find(|model| model["id"] == "gpt-4o-mini").expect("gpt-4o-mini");
        let rates = json!({"input": input, "cached_input": input / 2, "output": output});
        model["prices"] = json!([{"tiers": {"standard": {"rates": rates}}}]);
        self.write(&catalogue.to_string());
    }

    fn variables(&self) -> BTreeMap<String, String> {
        let path = self.path().display().to_string();
        BTreeMap::from([("NULLSPEND_PRICES_CATALOGUE_FILE".to_owned(), path)])
    }
}

/// Waits until the control plane's metric has reached a number.
async fn reached(stack: &Stack, metric: &str, wanted: f64) {
    let admin = stack.data().join("run/control-plane-admin.sock");
    eventually(&format!("{metric} of {wanted}"), async || {
        (value(&scrape(&admin).await, metric)? == wanted).then_some(())
    })
    .await;
}

/// Makes the `number`-th call and proves that exactly these rates priced it, in nano-dollars.
async fn priced(stack: &Stack, agent: &Agent, number: usize, version: &str, input: i64, output: i64) {
    let body = request(CHAT, "hello [[fake tokens=5]]", false);
    let _ = stack.call(&agent.key, CHAT, body).await.expect_status(200);
    let event = stack.wait_events(number).await.remove(0);
    let tokens = |name: &str| event[name].as_i64().expect("tokens");
    let cost = tokens("inputTokens") * input + tokens("outputTokens") * output;
    assert_eq!(
        (&event["priceVersion"], nanos(&event["costNanodollars"])),
        (&json!(version), cost),
        "{event:#}"
    );
}

#[tokio::test]
async fn an_edited_catalogue_prices_the_next_call_and_a_broken_one_does_not() {
    let file = File::new();
    file.price("e2e.1", 200_000, 700_000);
    let (name, path) = file.variables().pop_first().expect("a variable");
    let mut stack = Stack::builder().env(&name, &path).start().await;
    let agent = stack.agent().await;
    priced(&stack, &agent, 1, "e2e.1", 200, 700).await;

    file.price("e2e.2", 300_000, 900_000);
    reached(&stack, "catalogue_changes_total", 1.0).await;
    priced(&stack, &agent, 2, "e2e.2", 300, 900).await;

    file.write("{\"schema\": ");
    reached(&stack, "catalogue_refusals_total", 1.0).await;
    reached(&stack, "catalogue_current", 0.0).await;
    file.price("e2e.3", 3_000_000, 900_000);
    reached(&stack, "catalogue_refusals_total", 2.0).await;
    priced(&stack, &agent, 3, "e2e.2", 300, 900).await;
    assert!(stack.logs()["err.log"].contains("force"), "the log says how to mean it");

    file.price("e2e.4", 400_000, 1_000_000);
    reached(&stack, "catalogue_changes_total", 2.0).await;
    reached(&stack, "catalogue_current", 1.0).await;
    priced(&stack, &agent, 4, "e2e.4", 400, 1000).await;

    stack.kill9().await;
    stack.restart().await;
    priced(&stack, &agent, 5, "e2e.4", 400, 1000).await;
}

#[tokio::test]
async fn a_start_with_a_catalogue_that_cannot_be_used_is_refused_with_what_to_change() {
    let file = File::new();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let start = async || {
        let mut env = file.variables();
        env.insert("NULLSPEND_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
        let ended = program::prepared("up", directory.path(), &env).output().await.expect("the program runs");
        assert!(!ended.status.success(), "it started");
        String::from_utf8_lossy(&ended.stderr).into_owned()
    };
    let missing = start().await;
    assert!(
        missing.contains("cannot read the price catalogue") && missing.contains("prices.json"),
        "{missing}"
    );
    file.price("e2e.1", 150_000, 99_000_000_000);
    let absurd = start().await;
    assert!(absurd.contains("openai/gpt-4o-mini") && absurd.contains("absurd"), "{absurd}");
}
