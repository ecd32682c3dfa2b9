//! The suite notices wrong scripts: each of these changes of one line must make it fail.

mod support;

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use nullspend_ledger::conformance::{World, beside, budgets, holds, model, rebuild};

/// Its name, the line as it is, and the line as it must not be.
const MUTANTS: [(&str, &str, &str); 18] = [
    (
        "limits are applied without what extensions go by",
        "redis.call('HSET', key, 'enf', ARGV[a + 3], 'session', ARGV[a + 4], 'kept', ARGV[a + 5])",
        "",
    ),
    (
        "a limit is passed by one",
        "if sum < EXACT then return sum <= tonumber(limit) end",
        "if sum < EXACT then return sum <= tonumber(limit) + 1 end",
    ),
    (
        "a limit is not reached",
        "if sum < EXACT then return sum <= tonumber(limit) end",
        "if sum < EXACT then return sum < tonumber(limit) end",
    ),
    (
        "sums are doubles",
        "if sum < EXACT then return sum <= tonumber(limit) end",
        "if sum < 1e300 then return sum <= tonumber(limit) end",
    ),
    (
        "what is held is forgotten",
        "and not within(limit, scope.settled, scope.held, amount, kept)",
        "and not within(limit, scope.settled, amount, kept)",
    ),
    (
        "only the first scope is asked",
        "if scope.enforcement == 'strict' and not denied_by",
        "if i == 1 and scope.enforcement == 'strict' and not denied_by",
    ),
    ("a repeated reserve holds again", "if record(id) then return answer('done') end", ""),
    (
        "a repeated settle charges again",
        "  keep_done(id, not open and amount)\n  if open then",
        "  if open then",
    ),
    (
        "a settle leaves the hold",
        "redis.call('HINCRBY', key, 'h:' .. slot, negative(amount))\n      else",
        "redis.call('HINCRBY', key, 'h:' .. slot, '0')\n      else",
    ),
    (
        "a late settle is added to the lapse",
        "spend(key, 's:' .. slot, negative(amount))",
        "spend(key, 's:' .. slot, '0')",
    ),
    ("an old limit replaces a new one", "return scope.known_revision > scope.revision", "return false"),
    ("a repeated extension takes again", "if number <= tonumber(hold[3]) then return 'done' end", ""),
    ("an extension asks no limit", "if not allows(taken, session, hold[5] == '1') then", "if false then"),
    ("a lapse is given up at once", "int(now - LAPSE_KEPT), 'LIMIT'", "int(now), 'LIMIT'"),
    (
        "a lapse that is given up keeps its counters",
        "redis.call('HINCRBY', key, 'n:' .. slot, '-1')\n    end)\n  end\n  redis.call('DEL'",
        "end)\n  end\n  redis.call('DEL'",
    ),
    (
        "a window to come makes the present one old",
        "if start <= now and (generation",
        "if true and (generation",
    ),
    ("a counter is dropped under its hold", "elseif names == '0' then", "elseif names then"),
    (
        "a rate forgets the bucket before",
        "rate.previous = rate.start + window == start and rate.current or 0",
        "rate.previous = 0",
    ),
];

/// What the suite asks of a ledger, as far as it takes to tell a mutant.
async fn suite(worlds: &impl AsyncFn() -> World) {
    holds::a_strict_limit_is_reached_exactly_and_not_passed(&worlds().await).await;
    holds::a_repeated_settle_changes_nothing(&worlds().await).await;
    holds::a_lapse_that_nobody_corrects_is_given_up(&worlds().await).await;
    rebuild::a_restored_hold_of_a_window_to_come_makes_no_present_one_old(&worlds().await).await;
    budgets::large_amounts_are_exact(&worlds().await).await;
    budgets::limits_that_are_applied_are_what_extensions_go_by(&worlds().await).await;
    budgets::a_counter_outlives_its_window_while_a_hold_names_it(&worlds().await).await;
    beside::a_rate_is_limited_from_the_first_call_on(&worlds().await).await;
    for seed in 0..3 {
        model::run(&worlds().await, seed, 500).await;
    }
}

/// Whether the suite passes. A script that is no Lua any more is no mutant.
async fn passes(change: impl Fn(String) -> String) -> bool {
    let worlds = async || support::changed_world(&change).await;
    let ended = AssertUnwindSafe(suite(&worlds)).catch_unwind().await;
    let told = ended.as_ref().err().and_then(|told| told.downcast_ref::<String>());
    assert_eq!(told.filter(|told| told.contains("compiling")), None);
    ended.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mutant_is_noticed() {
    assert!(passes(|script| script).await, "the scripts as they are");
    let mut alive = Vec::new();
    for (name, from, to) in MUTANTS {
        let changed = std::cell::Cell::new(false);
        let change = |script: String| {
            changed.set(changed.get() || script.contains(from));
            script.replace(from, to)
        };
        if passes(change).await {
            alive.push(name);
        }
        assert!(changed.get(), "{name}: no script has the line");
    }
    assert!(alive.is_empty(), "not noticed: {alive:?}");
}
