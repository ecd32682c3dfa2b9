"""Prices the same usages by `nullspend cost` and by genai-prices, an independent table, and compares to the pico-dollar.

Every model that both know, several shapes of usage, today's prices and those of the days around each change. What
differs must be what `docs/reference/price-differences.md` lists: an unlisted difference fails, and so does a listed one
that no longer happens.
"""

import datetime
import json
import pathlib
import subprocess
import sys
from decimal import Decimal

import genai_prices
from genai_prices import data_snapshot

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reference/price-differences.md"
DAYS = ["2026-11-24", "2025-06-09", "2025-06-10", "2026-03-12", "2026-03-13", "2026-04-29", "2026-04-30", "2026-07-29",
        "2026-07-30", "2026-08-20", "2026-08-21", "2026-10-18", "2026-10-19", "2026-11-30", "2026-12-01", "2027-01-01", "2027-03-01"]
TIERS = {"batch": {"processing": "batch"}, "flex": {"service_tier": "flex"}, "priority": {"service_tier": "priority"}}
PROMPT, ANSWER, PART = 40_000, 1_500, 7_001


def shapes(model, day):
    """Name, tier, and tokens by class of each usage worth comparing for a model."""
    price = next((p for p in model["prices"] if p.get("from", "") <= day < p.get("until", "9999")), None)
    if price is None:
        return
    tiers = price["tiers"]
    for tier in ("standard", *TIERS):
        if tier not in tiers:
            continue
        rates, above = tiers[tier]["rates"], tiers[tier].get("above")
        prefix = "" if tier == "standard" else f"{tier} "
        yield f"{prefix}plain", tier, {"input": PROMPT, "output": ANSWER}
        for cls in ("cached_input", "cache_write_5m", "cache_write_1h", "cache_write_30m", "audio_input", "audio_output"):
            if cls in rates:
                whole = "output" if cls == "audio_output" else "input"
                usage = {"input": PROMPT, "output": ANSWER}
                part = PART if whole == "input" else 700
                yield f"{prefix}{cls}", tier, usage | {whole: usage[whole] - part, cls: part}
        band = (above or tiers["standard"].get("above") or {}).get("tokens", 200_000)
        for name, prompt in (("at the band", band), ("above the band", band + 1)):
            cached = {"cached_input": PART} if "cached_input" in rates else {}
            rest = prompt - sum(cached.values())
            yield f"{prefix}{name}", tier, {"input": rest, "output": ANSWER} | cached


def ours(provider, tokens, tier):
    """The usage object that the provider would have sent, and its context."""
    get = lambda *classes: sum(tokens.get(cls, 0) for cls in classes)
    prompt = sum(count for cls, count in tokens.items() if not cls.endswith("output"))
    answer = get("output", "audio_output")
    request = {"processing": "batch"} if tier == "batch" else {}
    response = {"service_tier": tier} if tier in ("flex", "priority") else {}
    if provider == "openai":
        details = {"cached_tokens": get("cached_input"), "cache_write_tokens": get("cache_write_30m"), "audio_tokens": get("audio_input")}
        usage = {"prompt_tokens": prompt, "prompt_tokens_details": details, "completion_tokens": answer,
                 "completion_tokens_details": {"audio_tokens": get("audio_output")}}
        return "chat.completions", usage, request, response
    if provider == "anthropic":
        split = {"ephemeral_5m_input_tokens": get("cache_write_5m"), "ephemeral_1h_input_tokens": get("cache_write_1h")}
        usage = {"input_tokens": get("input"), "cache_read_input_tokens": get("cached_input"), "output_tokens": answer,
                 "cache_creation_input_tokens": sum(split.values()), "cache_creation": split}
        return "messages", usage, request, {}
    audio = lambda count: [{"modality": "AUDIO", "tokenCount": count}]
    usage = {"promptTokenCount": prompt, "cachedContentTokenCount": get("cached_input"), "candidatesTokenCount": answer,
             "promptTokensDetails": audio(get("audio_input")), "candidatesTokensDetails": audio(get("audio_output"))}
    return "generateContent", usage, request, {"headers": {"x-gemini-service-tier": tier}} if response else {}


def offers(variant, tier, day):
    start = getattr(variant.constraint, "start_date", None)
    return TIERS[tier].items() <= variant.when.items() and (start is None or start.isoformat() <= day)


def theirs(model, provider, tokens, tier, day):
    """Pico-dollars, exactly; None where they have no such price. They know tiers only from the day they looked."""
    names = {"cached_input": "cache_read_tokens", "cache_write_5m": "cache_write_tokens", "cache_write_30m": "cache_write_tokens",
             "audio_input": "input_audio_tokens", "audio_output": "output_audio_tokens"}
    counts = {"input_tokens": 0, "output_tokens": 0}
    for cls, count in tokens.items():
        counts["output_tokens" if cls.endswith("output") else "input_tokens"] += count
        if cls == "cache_write_1h":
            counts |= {"cache_write_tokens": count, "cache_write_1h_tokens": count}
        elif cls in names:
            counts[names[cls]] = count
    if tier != "standard" and not any(offers(variant, tier, day) for variant in model.price_variants or []):
        return None
    at = datetime.datetime.fromisoformat(f"{day}T12:00:00+00:00")
    price = model.calc_price(genai_prices.Usage(**counts), provider, genai_request_timestamp=at, price_context=TIERS.get(tier))
    return price.total_price * 10**12


def compare(program):
    """(model, shape) → the days compared, and what the two say on those on which they differ."""
    catalogue = json.loads((ROOT / "core/catalogue/prices.json").read_text())
    providers = {provider.id: provider for provider in data_snapshot.get_snapshot().providers}
    cases = []
    for entry in catalogue["models"]:
        provider = providers[entry["provider"]]
        model = provider.find_model(entry["id"], all_providers=list(providers.values()))
        if model is None:
            continue
        for day in DAYS:
            for shape, tier, tokens in shapes(entry, day):
                expected = theirs(model, provider, tokens, tier, day)
                if expected is None:
                    continue
                api, usage, request, response = ours(entry["provider"], tokens, tier)
                line = {"id": len(cases), "provider": entry["provider"], "api": api, "model": entry["id"], "at": f"{day}T12:00:00Z",
                        "usage": usage, "request": request, "response": response}
                cases.append(((f"{entry['provider']}/{entry['id']}", shape), day, expected, line))
    lines = "\n".join(json.dumps(case[-1]) for case in cases)
    ran = subprocess.run([program, "cost"], input=lines, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == list(range(len(cases))), f"{len(answers)} answers: {ran.stderr}"
    compared, differ = {}, {}
    for (key, day, expected, _), answer in zip(cases, answers):
        compared.setdefault(key, set()).add(day)
        cost = answer["cost_pico"]
        if cost is None or Decimal(cost) != expected:
            differ.setdefault(key, {})[day] = f"ours {cost}, theirs {expected.normalize():f} pico-dollars"
    return compared, differ


def listed(compared):
    """(model, shape) → days on which the page says that they differ."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        if not line.startswith("| `"):
            continue
        model, usages, days, why = (cell.strip() for cell in line.strip("|").split("|"))
        assert why, f"{line}: a difference needs its reason"
        word, _, date = days.partition(" ")
        holds = {"always": lambda day: True, "from": lambda day: day >= date, "before": lambda day: day < date}[word]
        for usage in usages.split(","):
            key = (model.strip("`"), usage.strip())
            rows.setdefault(key, set()).update(filter(holds, compared.get(key, ())))
    return rows


def main(program):
    compared, differ = compare(program)
    models = {model for model, _ in compared}
    days = sum(map(len, compared.values()))
    print(f"{days} prices of {len(models)} models compared, {len(differ)} kinds of usage differ")
    assert len(models) > 100 and days > 10_000, "too little was compared to mean anything"
    rows = listed(compared)
    problems = [f"{PAGE.name} does not list {key} on {day}: {what}"
                for key, days in differ.items() for day, what in days.items() if day not in rows.get(key, ())]
    problems += [f"{PAGE.name} lists {key} on {sorted(days)}, of which only {sorted(differ.get(key, ()))} differ"
                 for key, days in rows.items() if not days or not days <= set(differ.get(key, ()))]
    sys.exit("\n".join(problems) or None)


if __name__ == "__main__":
    main(sys.argv[1])
