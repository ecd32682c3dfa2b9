//! The scripts as the server gets them: each is put together from the parts it uses.

use redis::Script;

/// Before all else where slots can be moved from server to server.
const STAY: &str = include_str!("lua/stay.lua");
const ENTER: &str = include_str!("lua/enter.lua");
const MONEY: &str = include_str!("lua/money.lua");
const BOOKS: &str = include_str!("lua/books.lua");
const FINISH: &str = include_str!("lua/finish.lua");
/// Where time comes from.
const CLOCK: &str = include_str!("lua/clock.lua");
/// Time as an argument: only tests have this text, so that no setting of the program can bring it in.
#[cfg(feature = "conformance")]
const CLOCK_OF_TESTS: &str = include_str!("lua/clock_of_tests.lua");

/// Refused when the server's memory is full.
const PLAIN: &str = "#!lua\n";
/// Works when the server's memory is full: what frees memory, or must not fail.
const ALLOW_OOM: &str = "#!lua flags=allow-oom\n";

/// One for each operation.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) reserve: Script,
    pub(super) extend: Script,
    pub(super) settle: Script,
    pub(super) charge: Script,
    pub(super) balances: Script,
    pub(super) apply_limits: Script,
    pub(super) sweep: Script,
    pub(super) load: Script,
    pub(super) load_sessions: Script,
    pub(super) restore_done: Script,
    pub(super) open_holds: Script,
    pub(super) rebuild: Script,
}

impl Scripts {
    /// On the server's clock.
    pub(super) fn new(cluster: bool) -> Self {
        Self::made_of(cluster, CLOCK, &|text| text)
    }

    /// On a test's clock, changed by the test.
    #[cfg(feature = "conformance")]
    pub(super) fn of_tests(cluster: bool, change: &dyn Fn(String) -> String) -> Self {
        Self::made_of(cluster, CLOCK_OF_TESTS, change)
    }

    fn made_of(cluster: bool, clock: &str, change: &dyn Fn(String) -> String) -> Self {
        let script = |flags: &str, own: &[&str]| {
            let parts: Vec<&str> = [if cluster { STAY } else { "" }, clock, ENTER]
                .into_iter()
                .chain(own.iter().copied())
                .collect();
            Script::new(&change(format!("{flags}{}", parts.join("\n"))))
        };
        Self {
            reserve: script(PLAIN, &[MONEY, BOOKS, include_str!("lua/reserve.lua")]),
            extend: script(ALLOW_OOM, &[MONEY, BOOKS, include_str!("lua/extend.lua")]),
            settle: script(ALLOW_OOM, &[MONEY, BOOKS, FINISH, include_str!("lua/settle.lua")]),
            charge: script(ALLOW_OOM, &[MONEY, BOOKS, FINISH, include_str!("lua/charge.lua")]),
            balances: script(ALLOW_OOM, &[BOOKS, include_str!("lua/balances.lua")]),
            apply_limits: script(ALLOW_OOM, &[BOOKS, include_str!("lua/apply_limits.lua")]),
            sweep: script(ALLOW_OOM, &[MONEY, BOOKS, include_str!("lua/sweep.lua")]),
            load: script(PLAIN, &[BOOKS, include_str!("lua/load.lua")]),
            load_sessions: script(PLAIN, &[BOOKS, include_str!("lua/load_sessions.lua")]),
            restore_done: script(PLAIN, &[BOOKS, include_str!("lua/restore_done.lua")]),
            open_holds: script(ALLOW_OOM, &[include_str!("lua/open_holds.lua")]),
            rebuild: script(ALLOW_OOM, &[include_str!("lua/rebuild.lua")]),
        }
    }
}
