//! How close the bound is to what a call costs, over the published prompts (`testdata/prompts`): a table for
//! `docs/internals/bound.md`.

use std::{error::Error, fs};

use nullspend_core::{
    attempt::Api,
    bound::bound,
    price::{Catalogue, Class, Lookup, Priced},
    request::RequestView,
    tokenizer,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// 2026-11-23.
const NOW: i64 = 1_795_392_000_000;

#[derive(Deserialize)]
struct Prompt<'a> {
    input_tokens: u64,
    output_tokens: u64,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// Bound over truth, for each prompt.
#[derive(Default)]
struct Ratios {
    input: Vec<f64>,
    cost: Vec<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("| API | stage | prompts | input p50 | p95 | cost p50 | p95 |\n|---|---|--:|--:|--:|--:|--:|");
    for (file, api, provider) in [
        ("chat", Api::OpenAiChat, "openai"),
        ("responses", Api::OpenAiResponses, "openai"),
        ("messages", Api::AnthropicMessages, "anthropic"),
    ] {
        let text =
            fs::read_to_string(format!("{}/testdata/prompts/{file}.jsonl", env!("CARGO_MANIFEST_DIR")))?;
        let mut stages = [Ratios::default(), Ratios::default()];
        for line in text.lines() {
            let prompt: Prompt<'_> = serde_json::from_str(line)?;
            let body = prompt.body.get().as_bytes();
            let mut view = RequestView::parse(api, body)?;
            let Lookup::Priced(priced) = Catalogue::shipped().lookup(provider, &view.model, NOW) else {
                continue;
            };
            stages[0].add(&priced, &view, &prompt);
            if let Some(encoding) = tokenizer::published(&priced) {
                view.count_texts(body, encoding);
                stages[1].add(&priced, &view, &prompt);
            }
        }
        for (stage, ratios) in (1..).zip(stages).filter(|(_, ratios)| !ratios.input.is_empty()) {
            println!("| {} | {stage} | {} |{}", api.as_str(), ratios.input.len(), ratios.cells());
        }
    }
    Ok(())
}

impl Ratios {
    fn add(&mut self, priced: &Priced, view: &RequestView, prompt: &Prompt<'_>) {
        let bound = bound(priced, view);
        let rates = priced.standard().rates;
        let rate = |class| rates.billed(class).0;
        let pico = prompt.input_tokens * rate(Class::Input) + prompt.output_tokens * rate(Class::Output);
        self.input.push(bound.input_tokens as f64 / prompt.input_tokens as f64);
        self.cost.push(bound.cost.0 as f64 * 1000.0 / pico as f64);
    }

    fn cells(self) -> String {
        [self.input, self.cost]
            .map(|ratios| format!(" {:.1} | {:.1} |", at(&ratios, 50), at(&ratios, 95)))
            .concat()
    }
}

/// A percentile.
fn at(ratios: &[f64], percent: usize) -> f64 {
    let mut sorted = ratios.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * percent / 100).min(sorted.len() - 1)).copied().unwrap_or_default()
}
