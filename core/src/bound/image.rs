//! Most tokens of one image: by its size where the body shows it, never more than the model's cap.

use crate::{price::Priced, request::Image};

/// Where nothing better is known: the most that any model bills.
const UNKNOWN_IMAGE: u64 = 48_200;
/// The dearest tiles of models that may bill either way.
const TILES: [u64; 2] = [85, 170];
/// Tokens of a patch, in hundredths: the dearest of any model.
const PATCH_PERCENT: u64 = 246;

pub(super) fn tokens(priced: &Priced, image: Image) -> u64 {
    let limits = priced.limits();
    let Some(cap) = limits.image_tokens else { return UNKNOWN_IMAGE };
    let Some((width, height)) = image.size else {
        return match limits.image_tiles {
            Some([base, _]) if image.low_detail => base,
            _ => cap,
        };
    };
    let (width, height) = (u64::from(width), u64::from(height));
    let counted = match (priced.provider(), limits.image_tiles) {
        ("openai" | "azure", Some([base, _])) if image.low_detail => base,
        ("openai" | "azure", Some(rates)) => tiles(width, height, rates),
        ("openai" | "azure", None) => tiles(width, height, TILES).max(patches(width, height)),
        ("anthropic", _) => squares(width, height),
        _ => cap,
    };
    counted.min(cap)
}

/// OpenAI's older models: fitted into a square of 2048, then scaled to a shortest side of 768, then cut into tiles of
/// 512. Whether small images are enlarged is not said, so they are here.
fn tiles(width: u64, height: u64, [base, tile]: [u64; 2]) -> u64 {
    let (mut long, mut short) = (width.max(height), width.min(height));
    if long > 2048 {
        (long, short) = (2048, (short * 2048).div_ceil(long));
    }
    long = (long * 768).div_ceil(short);
    base + tile * long.div_ceil(512) * 768_u64.div_ceil(512)
}

/// OpenAI's newer models: patches of 32 pixels, at a factor that differs by model.
fn patches(width: u64, height: u64) -> u64 {
    let patches = width.div_ceil(32).saturating_mul(height.div_ceil(32));
    patches.saturating_mul(PATCH_PERCENT).div_ceil(100)
}

/// Claude: squares of 28 pixels; earlier documentation says width × height / 750.
fn squares(width: u64, height: u64) -> u64 {
    let squares = width.div_ceil(28).saturating_mul(height.div_ceil(28));
    squares.max(width.saturating_mul(height).div_ceil(750))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::{Catalogue, Lookup};

    fn of(provider: &str, model: &str, size: Option<(u32, u32)>, low_detail: bool) -> u64 {
        match Catalogue::shipped().lookup(provider, model, 1_795_392_000_000) {
            Lookup::Priced(priced) => tokens(&priced, Image { size, low_detail }),
            Lookup::Unpriced => panic!("{model} has no price"),
        }
    }

    #[test]
    fn what_providers_document_is_within_the_bound() {
        // OpenAI's own examples: 1024 × 1024 is 765, 2048 × 4096 is 1105, any at low detail 85.
        assert_eq!(of("openai", "gpt-4o", Some((1024, 1024)), false), 765);
        assert_eq!(of("openai", "gpt-4o", Some((2048, 4096)), false), 1105);
        assert_eq!(of("openai", "gpt-4o", Some((2048, 4096)), true), 85);
        assert_eq!(of("openai", "gpt-4o-mini", Some((1024, 1024)), false), 25_501);
        // Patches: 1024 × 1024 is 1024 of them, at 1.2 and 1.62; small ones could be tiled.
        assert!(of("openai", "gpt-5.4", Some((1024, 1024)), false) >= 1024 * 162 / 100);
        assert_eq!(of("openai", "gpt-5.4", Some((32, 32)), false), 765);
        // Anthropic's example: 1000 × 1000 is 1334 by area, 1296 by squares.
        assert_eq!(of("anthropic", "claude-opus-4-6", Some((1000, 1000)), false), 1334);
        assert_eq!(of("anthropic", "claude-opus-4-6", Some((28, 28)), false), 2);
    }

    #[test]
    fn the_cap_is_the_most_whatever_the_size() {
        for size in [None, Some((u32::MAX, u32::MAX)), Some((1, u32::MAX))] {
            assert!(of("openai", "gpt-4o", size, false) <= 1500, "{size:?}");
            assert_eq!(of("openai", "gpt-5.4", size, false), 36_000, "{size:?}");
            assert_eq!(of("anthropic", "claude-opus-5", size, false), 4784, "{size:?}");
        }
        assert_eq!(of("openai", "gpt-4o", None, true), 85);
        assert_eq!(of("openai", "gpt-5.4", None, true), 36_000, "what low means there is not said");
        assert_eq!(of("google", "gemini-2.5-flash", Some((10, 10)), false), 10_000, "no published formula");
    }
}
