//! The suite that every ledger must pass: named cases, a model run against the pure law, and a crowd.
//!
//! An implementation's test file makes a [`World`] and hands it to [`conformance!`](crate::conformance!), which
//! stamps one test for each name of the list. A case added here is thereby a case of every ledger.

#[doc(hidden)]
pub mod beside;
#[doc(hidden)]
pub mod budgets;
mod command;
#[doc(hidden)]
pub mod crowd;
#[doc(hidden)]
pub mod holds;
pub mod model;
#[doc(hidden)]
pub mod rebuild;
mod rule;
mod world;

pub use world::{World, seeded::Random};

/// Stamps the whole suite for one ledger.
///
/// `$world` is an expression of type [`World`], evaluated afresh (in async code) wherever a case needs a ledger of its
/// own: empty, and not shared with any other case that may be running. The model run takes `$steps` steps, the one
/// with faults a fifth of them.
#[macro_export]
macro_rules! conformance {
    ($world:expr, steps = $steps:expr) => {
        $crate::conformance_cases! { $world;
            holds: a_strict_limit_is_reached_exactly_and_not_passed,
            holds: all_scopes_are_taken_from_or_none,
            holds: as_many_scopes_as_allowed_are_taken_from_or_none,
            holds: a_denial_names_the_first_strict_scope_that_does_not_fit,
            holds: soft_and_warning_budgets_never_deny,
            holds: a_reserve_without_scopes_is_a_hold,
            holds: a_repeated_reserve_changes_nothing,
            holds: a_repeated_settle_changes_nothing,
            holds: a_settle_above_the_hold_is_recorded_in_full,
            holds: a_hold_that_nobody_knows_is_told,
            holds: a_hold_lapses_when_its_lease_ends,
            holds: a_renewed_hold_does_not_lapse,
            holds: a_settle_after_the_lapse_corrects_it,
            holds: a_lapse_that_nobody_corrects_is_given_up,
            holds: an_extension_is_applied_once_and_within_limits,
            holds: a_renewal_is_not_refused_by_a_lowered_limit,
            holds: open_holds_are_counted,
            holds: a_clock_set_back_changes_nothing,
            budgets: a_charge_is_never_refused_and_recorded_once,
            budgets: a_charge_of_a_held_id_settles_it,
            budgets: a_charge_takes_spend_back_down_to_nothing,
            budgets: a_limit_lowered_below_what_is_spent_blocks_and_harms_nothing,
            budgets: an_old_limit_is_refused_and_a_new_one_kept,
            budgets: limits_are_applied_by_revision_in_any_order,
            budgets: limits_that_are_applied_are_what_extensions_go_by,
            budgets: a_deleted_budget_binds_no_more,
            budgets: a_reserve_outside_its_window_is_refused,
            budgets: a_hold_settles_into_the_window_it_was_taken_in,
            budgets: a_counter_outlives_its_window_while_a_hold_names_it,
            budgets: a_new_generation_starts_at_nothing,
            budgets: what_was_settled_is_loaded,
            budgets: large_amounts_are_exact,
            budgets: totals_saturate,
            budgets: nonsense_is_answered_and_changes_nothing,
            budgets: organisations_do_not_meet,
            beside: a_session_is_limited_whatever_the_enforcement,
            beside: a_session_spends_what_its_window_does,
            beside: a_session_idle_for_a_day_starts_again,
            beside: sessions_belong_to_a_generation_and_are_loaded,
            beside: a_rate_is_limited_from_the_first_call_on,
            beside: a_rate_counts_what_holds_turn_out_to_cost,
            beside: large_rates_are_exact,
            beside: sessions_come_before_rates_and_rates_before_limits,
            beside: what_is_kept_back_is_left_to_finalizing_calls,
            rebuild: a_restored_hold_is_held_whatever_the_limit,
            rebuild: a_restored_hold_is_extended_as_its_budget_says,
            rebuild: a_restored_lapse_is_corrected_by_the_difference,
            rebuild: a_restored_hold_of_a_window_to_come_makes_no_present_one_old,
            rebuild: what_is_in_the_totals_is_not_charged_again,
            rebuild: a_reserve_that_arrives_after_it_was_given_up_holds_nothing,
            crowd: a_crowd_does_not_pass_the_limit,
            crowd: a_crowd_that_settles_as_it_goes_does_not_pass_the_limit,
            crowd: the_same_call_from_many_sides_is_done_once,
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn random_commands_do_what_the_law_says() {
            for (seed, steps) in $crate::conformance::model::runs($steps) {
                $crate::conformance::model::run(&$world, seed, steps).await;
            }
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn lost_replies_and_repeated_calls_do_no_harm() {
            for (seed, steps) in $crate::conformance::model::runs($steps / 5) {
                $crate::conformance::model::run_with_faults(&$world, seed, steps).await;
            }
        }
    };
}

/// One test for each case. Part of [`conformance!`](crate::conformance!).
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($world:expr; $($group:ident: $case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                $crate::conformance::$group::$case(&$world).await;
            }
        )*
    };
}
