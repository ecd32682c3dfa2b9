//! The published prompts (`testdata/prompts`): their bounds hold, and their counts are what they say.

use nullspend_core::attempt::Api;
use serde::Deserialize;
use serde_json::Value;

use super::{input_bounds, priced};

/// A line of the prompt files.
#[derive(Deserialize)]
struct Prompt {
    name: String,
    /// Tokens of the prompt: counted where `exact`, else by the provider's published formula or an upward estimate.
    input_tokens: u64,
    exact: bool,
    body: Value,
}

fn prompts(file: &str) -> Vec<Prompt> {
    let path = format!("{}/testdata/prompts/{file}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the prompt file");
    text.lines().map(|line| serde_json::from_str(line).expect("a prompt")).collect()
}

#[test]
fn every_prompt_is_within_its_bounds() {
    for (file, api) in
        [("chat", Api::OpenAiChat), ("responses", Api::OpenAiResponses), ("messages", Api::AnthropicMessages)]
    {
        let prompts = prompts(file);
        assert!(prompts.len() >= 40, "{file}");
        for prompt in prompts {
            let priced = priced(api, prompt.body["model"].as_str().expect("a model"));
            let [loose, tight] = input_bounds(api, &priced, &prompt.body.to_string());
            assert!(prompt.input_tokens <= tight && tight <= loose, "{file}/{}: {tight}", prompt.name);
        }
    }
}

/// By OpenAI's published rule: three tokens and the role for each message, and three before the answer.
fn counted(body: &Value) -> u64 {
    let count = |text: &Value| {
        let text = text.as_str().expect("text");
        tiktoken_rs::o200k_base_singleton().encode_ordinary(text).len() as u64
    };
    let messages = body["messages"].as_array().expect("messages");
    3 + messages.iter().map(|message| 3 + count(&message["role"]) + count(&message["content"])).sum::<u64>()
}

#[test]
fn exact_counts_are_those_of_the_encoding() {
    let exact: Vec<Prompt> = prompts("chat").into_iter().filter(|prompt| prompt.exact).collect();
    assert!(exact.len() >= 30);
    for prompt in exact {
        assert_eq!(counted(&prompt.body), prompt.input_tokens, "{}", prompt.name);
    }
}
