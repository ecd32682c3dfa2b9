//! `nullspend cost` and `nullspend bound` as programs: lines in, lines out.
#![allow(clippy::unwrap_used, reason = "a test: clippy does not see that its helpers are")]

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

fn answers(command: &str, input: &str) -> Vec<Value> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nullspend"))
        .arg(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_line_is_answered_in_order_and_a_bad_one_ends_nothing() {
    let input = concat!(
        r#"{"id":"a","provider":"openai","api":"chat.completions","model":"gpt-4o","at":"2026-11-23T12:00:00Z","usage":{"prompt_tokens":2649,"completion_tokens":4}}"#,
        "\n\nno json\n",
        r#"{"id":"b","provider":"openai","api":"chat.completions","model":"gpt-9-imaginary","at":"2026-11-23T12:00:00Z","usage":{"prompt_tokens":1}}"#,
        "\n",
        r#"{"id":"c","provider":"openai","api":"chat.completions","model":"gpt-4o","at":"2026-11-23T12:00:00Z","usage":null}"#,
    );
    let answers = answers("cost", input);
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[0]["cost_nano"], "6662500");
    assert_eq!(answers[0]["price"], json!({"id": "openai/gpt-4o", "version": "2026-11-23.1"}));
    assert!(answers[1]["error"].as_str().unwrap().contains("not a line of recorded usage"));
    assert_eq!((&answers[2]["cost_pico"], &answers[2]["flags"]), (&Value::Null, &json!(["unpriced_model"])));
    assert_eq!((&answers[3]["cost_pico"], &answers[3]["flags"]), (&Value::Null, &json!(["usage_missing"])));
}

#[test]
fn bodies_are_bounded_as_objects_and_as_strings_alike() {
    let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}],"max_tokens":10}"#;
    let line = |id: u32, body: &str| {
        format!(r#"{{"id":{id},"provider":"openai","api":"chat.completions","body":{body}}}"#)
    };
    let quoted = Value::from(body).to_string();
    let unknown = line(3, &body.replace("gpt-4o", "gpt-9-imaginary"));
    let input = [line(1, body), line(2, &quoted), unknown].join("\n");
    let answers = answers("bound", &input);
    assert_eq!(answers[0]["output_tokens_bound"], 10);
    for name in ["input_tokens_bound", "output_tokens_bound", "cost_nano_bound"] {
        assert!(answers[0][name].as_u64().unwrap() > 0);
        assert_eq!(answers[0][name], answers[1][name]);
        assert!(answers[2][name].is_null());
    }
    assert!(answers[2]["error"].as_str().unwrap().contains("has no price"));
}
