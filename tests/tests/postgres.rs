//! The same product on PostgreSQL: what was recorded survives a crash, to the nano-dollar.

use nullspend_e2e::{console::nanos, servers::postgres_database, stack::Stack};

use crate::{CHAT, MESSAGES, request, sum_nanos};

#[tokio::test]
async fn a_crash_on_postgres_loses_nothing() {
    let mut stack = Stack::builder().env("NULLSPEND_DATABASE_URL", &postgres_database().await).start().await;
    let agent = stack.agent().await;
    let budget = stack.limit_key(&agent, 10_000_000).await;
    for number in 0..6 {
        let path = if number % 2 == 0 { CHAT } else { MESSAGES };
        let _ = stack.call(&agent.key, path, request(path, "hello", number < 3)).await.expect_status(200);
    }
    let body = request(CHAT, "[[fake tokens=6 chunks=6 gate=never gate_at=3]]", true);
    let mut cut = stack.open(&stack.http, &agent.key, CHAT, body).await.expect("an answer");
    cut.read_until("word").await;
    stack.kill9().await;
    drop(cut);

    stack.restart().await;
    let events = stack.wait_events(7).await;
    let lapsed = events.iter().filter(|event| event["measurement"] == "lapsed").count();
    assert_eq!(lapsed, 1, "{events:#?}");
    let after = stack.wait_no_holds(&budget).await;
    assert_eq!(nanos(&after["spendNanodollars"]), sum_nanos(&events));
    assert!(sum_nanos(&events) >= stack.provider.billed_nanos());
    assert_eq!(stack.call(&agent.key, CHAT, request(CHAT, "hello", false)).await.status.as_u16(), 200);
}
