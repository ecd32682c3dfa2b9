//! A cost line by line.

use nullspend_core::cost::{Detail, FeeLine, Line, Step};
use nullspend_proto::v1;

use super::convert::signed;

/// The stored lines of an event; `None` where it has none, or a later version wrote them.
pub(super) fn cost_detail(json: &str) -> Option<v1::CostDetail> {
    let detail: Detail = serde_json::from_str(json).ok()?;
    Some(v1::CostDetail {
        steps: detail.steps.iter().map(step).collect(),
        fees: detail.fees.iter().map(fee).collect(),
        reported_picodollars: detail.reported_pico.map(|pico| pico.to_string()),
    })
}

fn step(step: &Step) -> v1::CostStep {
    let modifiers = step.modifiers.iter().map(|modifier| v1::CostModifier {
        name: modifier.name.to_string(),
        percent: i32::try_from(modifier.percent).unwrap_or(i32::MAX),
    });
    v1::CostStep {
        model: step.model.clone(),
        price_id: step.price_id.clone(),
        price_version: step.price_version.clone(),
        tier: step.tier.as_str().to_owned(),
        long_context: step.long_context,
        prompt_tokens: signed(step.prompt_tokens),
        modifiers: modifiers.collect(),
        lines: step.lines.iter().map(line).collect(),
    }
}

fn line(line: &Line) -> v1::CostLine {
    v1::CostLine {
        class: line.class.as_str().to_owned(),
        tokens: signed(line.tokens),
        rate_picodollars: line.rate_pico.map(signed),
        cost_picodollars: line.cost_pico.to_string(),
    }
}

fn fee(fee: &FeeLine) -> v1::CostFee {
    v1::CostFee {
        name: fee.name.to_string(),
        calls: signed(fee.calls),
        fee_picodollars: signed(fee.fee_pico),
        cost_picodollars: fee.cost_pico.to_string(),
    }
}
