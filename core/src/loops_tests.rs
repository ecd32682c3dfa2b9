use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const SECOND: u64 = 1_000_000;

fn group(n: u128) -> (BudgetId, KeyId) {
    (BudgetId(Uuid::from_u128(n)), KeyId(Uuid::from_u128(n + 1000)))
}

/// Sends requests one second apart; what each was told.
fn told(max_calls: u32, requests: &[u64]) -> Vec<Option<(LoopKind, u64)>> {
    let mut loops = Loops::default();
    let told = requests.iter().zip(0..).map(|(&request, second)| {
        loops.count(group(1), request, max_calls, second * SECOND).map(|found| (found.kind, found.calls))
    });
    told.collect()
}

#[test]
fn one_request_is_a_loop_when_it_is_sent_once_too_often() {
    use LoopKind::PerKey;
    assert_eq!(told(3, &[7, 7, 7, 7, 7]), [None, None, None, Some((PerKey, 4)), Some((PerKey, 5))]);
    assert_eq!(told(1, &[7, 8, 7, 9]), [None, None, Some((PerKey, 2)), None], "others pass meanwhile");
    assert_eq!(told(50, &[7; 50]), [None; 50]);
}

#[test]
fn many_requests_in_turn_are_a_loop_when_five_repeat_and_are_too_many_together() {
    let rounds = |patterns: u64, rounds: usize| -> Vec<u64> {
        (0..patterns).cycle().take(patterns as usize * rounds).collect()
    };
    let found = told(14, &rounds(5, 3));
    assert!(found[..14].iter().all(Option::is_none), "{found:?}");
    assert_eq!(found[14], Some((LoopKind::Aggregate, 15)));
    assert!(told(14, &rounds(4, 6)).iter().all(Option::is_none), "four are not many");
    assert!(told(15, &rounds(5, 3)).iter().all(Option::is_none), "as many together as are allowed");
    // A call that is new is no part of it.
    let mut sent = rounds(5, 3);
    sent.extend([100, 100, 0]);
    let found = told(10, &sent);
    assert_eq!(found[15..], [None, None, Some((LoopKind::Aggregate, 16))]);
}

#[test]
fn a_loop_that_pauses_for_a_minute_may_begin_again() {
    let mut loops = Loops::default();
    let mut send = |second: u64| loops.count(group(1), 7, 2, second * SECOND).map(|found| found.calls);
    assert_eq!([send(0), send(1), send(2), send(50)], [None, None, Some(3), Some(4)]);
    assert_eq!([send(111), send(112), send(113)], [None, None, Some(3)]);
    assert_eq!(send(100_000), None);
}

#[test]
fn keys_and_budgets_are_counted_apart() {
    let mut loops = Loops::default();
    let (budget, key) = group(1);
    let (other_budget, other_key) = group(2);
    assert_eq!(loops.count((budget, key), 7, 1, 0), None);
    assert_eq!(loops.count((budget, other_key), 7, 1, 0), None);
    assert_eq!(loops.count((other_budget, key), 7, 1, 0), None);
    assert!(loops.count((budget, key), 7, 1, 0).is_some());
}

#[test]
fn a_reading_of_the_clock_that_comes_late_counts_all_the_same() {
    let mut loops = Loops::default();
    let mut send = |now_us| loops.count(group(1), 7, 2, now_us).map(|found| found.calls);
    assert_eq!([send(10 * SECOND), send(10 * SECOND - 1), send(0)], [None, None, Some(3)]);
}

#[test]
fn memory_is_bounded_and_what_is_sent_again_is_not_forgotten() {
    let mut loops = Loops::default();
    let mut now_us = 0;
    for round in 0..20 {
        assert_eq!(loops.count(group(1), u64::MAX, 19, now_us).is_some(), round >= 19, "{round}");
        for request in 0..200 {
            now_us += 1;
            loops.count(group(1), round * 1_000 + request, 19, now_us);
        }
    }
    assert_eq!(loops.groups.values().map(|group| group.patterns.len()).max(), Some(PATTERNS_MAX));
    for n in 0..3 * GROUPS_MAX as u128 {
        now_us += 1;
        loops.count(group(n), 1, 1, now_us);
        assert!(loops.groups.len() <= GROUPS_MAX);
    }
    // What is over goes at once.
    loops.count(group(1_000_000), 1, 1, now_us + 61 * SECOND);
    assert_eq!(loops.groups.len(), 1);
}

#[test]
fn a_fingerprint_is_of_the_whole_request() {
    let prints = Fingerprints::default();
    let mut long = vec![b' '; 1 << 20];
    let of = |body: &[u8]| prints.of("chat", "openai", body);
    let first = of(&long);
    assert_eq!(first, of(&long));
    *long.last_mut().unwrap() = b'x';
    assert_ne!(first, of(&long), "the last byte of a megabyte");
    assert_ne!(prints.of("chat", "openai", b"x"), prints.of("responses", "openai", b"x"));
    assert_ne!(prints.of("chat", "openai", b"x"), prints.of("chat", "groq", b"x"));
    assert_ne!(prints.of("a", "b", b"c"), prints.of("ab", "", b"c"));
    assert_ne!(first, Fingerprints::default().of("chat", "openai", &vec![b' '; 1 << 20]), "keyed anew");
}

/// All calls ever, and the definition by looking through them.
#[derive(Default)]
struct Naive(Vec<(u64, u128, u64)>);

impl Naive {
    fn since(&self, from_us: u64, place: u128, request: u64) -> u64 {
        self.0.iter().filter(|(at, p, r)| *at >= from_us && *p == place && *r == request).count() as u64
    }

    fn count(&mut self, place: u128, request: u64, max_calls: u64, now_us: u64) -> Option<Looping> {
        self.0.push((now_us, place, request));
        let from_us = (now_us / SLOT_US + 1).saturating_sub(SLOTS as u64) * SLOT_US;
        let calls = self.since(from_us, place, request);
        if calls > max_calls {
            return Some(Looping { kind: LoopKind::PerKey, calls });
        }
        let repeating: Vec<u64> =
            (0..10).map(|other| self.since(from_us, place, other)).filter(|&calls| calls >= 3).collect();
        let together = repeating.iter().sum();
        (calls >= 3 && repeating.len() >= 5 && together > max_calls)
            .then_some(Looping { kind: LoopKind::Aggregate, calls: together })
    }
}

proptest! {
    #[test]
    fn it_counts_as_one_who_remembers_everything(
        max_calls in 1_u32..40,
        calls in prop::collection::vec((0_u128..2, 0_u64..10, 0_u64..4_000_000), 1..300),
        pauses in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let (mut loops, mut naive, mut now_us) = (Loops::default(), Naive::default(), 0);
        let pauses: Vec<usize> = pauses.iter().map(|at| at.index(calls.len())).collect();
        for (n, (place, request, step)) in calls.into_iter().enumerate() {
            now_us += if pauses.contains(&n) { step * 20 } else { step / 4 };
            let found = loops.count(group(place), request, max_calls, now_us);
            prop_assert_eq!(found, naive.count(place, request, u64::from(max_calls), now_us));
            if let Some(Looping { kind: LoopKind::PerKey, calls }) = found {
                let since = |seconds: u64| naive.since(now_us.saturating_sub(seconds * SECOND), place, request);
                prop_assert!(since(55) <= calls && calls <= since(60), "a call counts for 55 to 60 seconds");
            }
        }
    }
}
