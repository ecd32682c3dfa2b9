//! The figures as a table to read, with the ratios that count.

use std::fmt::Write as _;

use super::{Figures, Row};

impl Row {
    pub(super) fn cpu_us(&self) -> f64 {
        self.envoy_us + self.ours_us
    }
}

impl Figures {
    /// Markdown: every figure, then product / no-op (c/b), product / bare (c/a), and what Redis adds (d/c).
    #[must_use]
    pub fn as_table(&self) -> String {
        let mut text = String::new();
        for rows in self.rows.chunks(4) {
            let [bare, no_op, product, on_redis] = rows else { continue };
            let _ = writeln!(text, "\n### {}\n", bare.scenario);
            text.push_str("| arm | requests/s | p50 µs | p99 µs | first byte p50 µs | p99 µs | Envoy µs CPU | ours µs CPU | errors |\n");
            text.push_str("|---|--:|--:|--:|--:|--:|--:|--:|--:|\n");
            for row in rows {
                let Row { arm, report, envoy_us, ours_us, .. } = row;
                let (whole, first) = (report.whole, report.first_byte);
                let _ = writeln!(
                    text,
                    "| {arm} | {:.0} | {} | {} | {} | {} | {envoy_us:.0} | {ours_us:.0} | {} |",
                    report.rate, whole.p50, whole.p99, first.p50, first.p99, report.errors
                );
            }
            text.push_str(&ratios("c/b", product, no_op));
            text.push_str(&ratios("c/a", product, bare));
            text.push_str(&ratios("d/c", on_redis, product));
            if let Some(calls) = on_redis.redis_calls {
                let _ = writeln!(text, "\nRound trips to Redis for each request: {calls:.2}");
            }
        }
        text
    }
}

fn ratios(name: &str, over: &Row, under: &Row) -> String {
    let of = |figure: fn(&Row) -> f64| {
        if figure(under) > 0.0 { format!("{:.2}", figure(over) / figure(under)) } else { "–".to_owned() }
    };
    format!(
        "| **{name}** | {} | {} | {} | {} | {} | CPU together: {} | | |\n",
        of(|row| row.report.rate),
        of(|row| as_float(row.report.whole.p50)),
        of(|row| as_float(row.report.whole.p99)),
        of(|row| as_float(row.report.first_byte.p50)),
        of(|row| as_float(row.report.first_byte.p99)),
        of(Row::cpu_us),
    )
}

fn as_float(micros: u64) -> f64 {
    f64::from(u32::try_from(micros).unwrap_or(u32::MAX))
}
