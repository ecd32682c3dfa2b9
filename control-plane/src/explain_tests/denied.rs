//! What said no, told in words.

use super::*;

#[tokio::test]
async fn each_kind_of_denial_tells_its_own_numbers() {
    let velocity = proto::Velocity { limit_nanos: 50, window_ms: 60_000, cooldown_ms: 9_000 };
    let limited = proto::SeenBudget {
        session_limit_nanos: Some(70),
        velocity: Some(velocity),
        ..seen(0xb1, "strict_block", 1_000_000)
    };
    let by = |why: &str, spend_nanos| {
        let denied_by = proto::DeniedBy { place: 0, why: why.to_owned(), spend_nanos, retry_after_ms: None };
        let budgets = vec![limited.clone()];
        Some(proto::Trail { budgets, denied_by: Some(denied_by), ..proto::Trail::default() })
    };
    let looked = proto::Trail { steps: steps(&[("price", 9)]), ..proto::Trail::default() };
    let mandate =
        json!({"mandate": "allowed_models", "requested": "gpt-4o", "allowed": ["gpt-4o-mini"]}).to_string();
    for (code, trail, details, why, numbers, said) in [
        (
            "session_limit_exceeded",
            by("session", Some(61)),
            "{}",
            "session",
            ["61", "70"],
            "\"s-1\" has spent",
        ),
        ("velocity_exceeded", by("velocity", Some(41)), "{}", "velocity", ["41", "50"], "in 60 s"),
        ("mandate_violation", None, mandate.as_str(), "mandate", ["", ""], "do not include \"gpt-4o\""),
        ("invalid_model", Some(looked), "{}", "no_price", ["", ""], "has no price"),
        ("of_a_later_version", None, r#"{"fact":7}"#, "other", ["", ""], r#"{"fact":7}"#),
    ] {
        let world = World::new().await;
        let details_json = details.to_owned();
        let trail = trail.map(|trail| trail.to_bytes()).unwrap_or_default();
        let denied = proto::Denied { code: code.to_owned(), trail, details_json, ..denial(world.org) };
        report(&world, [Kind::Denied(denied)]).await;
        let (_, told) = explain(&world, &DENIAL.to_string()).await;
        let denied = &told["data"]["deniedBy"];
        assert_eq!(denied["why"], why, "{code}");
        let told_numbers =
            ["spentNanodollars", "limitNanodollars"].map(|name| denied[name].as_str().unwrap_or(""));
        assert_eq!(told_numbers, numbers, "{code}");
        assert!(denied["message"].as_str().unwrap().contains(said), "{code}: {denied}");
        let how = told["data"]["price"]["how"].as_str();
        let refused = "the model has no price, and the call was refused";
        assert_eq!(how, (why == "no_price").then_some(refused), "{code}");
    }
}

#[tokio::test]
async fn a_freeze_is_told_with_who_made_it_and_whether_it_still_stands() {
    let world = World::new().await;
    let body = json!({"entityType": "customer", "entityId": "acme", "reason": "runaway"});
    let (_, made) = world.rest("owner", "POST", "/api/freezes", Some(body)).await;
    let of = |name: &str| made["data"][name].as_str().unwrap().to_owned();
    let (id, since, by) = (of("id"), of("createdAt"), of("createdBy"));
    let details = json!({"entity_type": "customer", "entity_id": "acme", "freeze_id": id, "reason": "runaway",
        "since": since});
    let trail =
        proto::Trail { steps: steps(&[("authenticate", 40), ("freeze", 41)]), ..proto::Trail::default() };
    let frozen = |attempt: Uuid, freeze: &str, reason: &str| {
        let mut details = details.clone();
        (details["freeze_id"], details["reason"]) = (json!(freeze), json!(reason));
        let (attempt_id, details_json) = (attempt.to_string(), details.to_string());
        let (code, trail) = ("frozen".to_owned(), trail.to_bytes());
        Kind::Denied(proto::Denied { attempt_id, code, trail, details_json, ..denial(world.org) })
    };
    let (forgotten, nowhere) = (Uuid::from_u128(0xd2), format!("ns_frz_{}", Uuid::nil()));
    report(&world, [frozen(DENIAL, &id, "runaway"), frozen(forgotten, &nowhere, "")]).await;
    let told = async |attempt: Uuid| {
        let (status, told) = explain(&world, &attempt.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{told:#}");
        told["data"].clone()
    };
    let before =
        format!("calls of customer acme were frozen by {by} at {since}, with the reason \"runaway\"");
    let in_force = told(DENIAL).await;
    let denied = &in_force["deniedBy"];
    assert_eq!((&denied["why"], &denied["freezeId"]), (&json!("freeze"), &json!(id)));
    let lift = format!(
        "{before}; the freeze {id} is in force: an administrator lifts it with DELETE /api/freezes/{id}"
    );
    assert_eq!(denied["message"], lift);
    assert_eq!(
        in_force["summary"],
        format!("Denied with frozen: {lift}. Nothing was forwarded and nothing was spent")
    );
    assert_eq!(in_force["steps"][1], json!({"step": "freeze", "atMicroseconds": 41}));
    assert_eq!(
        (&in_force["price"], &in_force["bound"], &in_force["unknown"]),
        (&Value::Null, &Value::Null, &json!([]))
    );
    let (status, _) = world.rest("owner", "DELETE", &format!("/api/freezes/{id}"), None).await;
    assert_eq!(status, StatusCode::OK);
    let lifted = told(DENIAL).await;
    let message = lifted["deniedBy"]["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("{before}; the freeze {id} was lifted at 20")), "{message}");
    let gone = told(forgotten).await;
    let message = format!(
        "calls of customer acme were frozen at {since}, without a reason; the freeze {nowhere} is not known any more"
    );
    assert_eq!(gone["deniedBy"]["message"], message);
}

#[tokio::test]
async fn a_loop_is_told_with_what_repeated_and_what_helps() {
    for (kind, calls, what) in [
        ("per_key", 51, "the key sent this very request 51 times within 60 s"),
        ("aggregate", 72, "the key sent this request and others in turn 72 times together within 60 s"),
    ] {
        let world = World::new().await;
        let budget = format!("ns_bgt_{}", Uuid::from_u128(0xb1));
        let details = json!({"type": kind, "model": "gpt-4o-mini", "callCount": calls, "windowSeconds": 60,
            "maxCalls": 50, "entityType": "tag", "entityId": "team=core", "budgetId": budget});
        let trail = proto::Trail {
            price: Some(price()),
            steps: steps(&[("price", 90), ("match", 90), ("loop", 91)]),
            ..proto::Trail::default()
        };
        let (code, details_json) = ("loop_detected".to_owned(), details.to_string());
        let denied = proto::Denied { code, trail: trail.to_bytes(), details_json, ..denial(world.org) };
        report(&world, [Kind::Denied(denied)]).await;
        let (_, told) = explain(&world, &DENIAL.to_string()).await;
        let denied = &told["data"]["deniedBy"];
        let helps =
            "any other request passes, this one again after a pause of 60 s, or once loopMaxCalls is raised";
        let message =
            format!("{what}, and the tag budget {budget} of team=core allows 50 (loopMaxCalls); {helps}");
        let expected = (&json!("loop"), &json!(budget), &json!(60_000), &json!(message));
        assert_eq!(
            (&denied["why"], &denied["budgetId"], &denied["retryAfterMs"], &denied["message"]),
            expected
        );
        assert_eq!(told["data"]["steps"][2]["step"], "loop");
    }
}
