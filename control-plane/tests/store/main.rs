//! One suite for the store, run on SQLite and on PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail them")]

mod administration;
mod calls;
mod control_planes;
mod events;
mod explain;
mod freezes;
mod ingest;
mod prices;
mod rebuilds;
mod sessions;
mod thresholds;
mod world;

use world::{Engine, World};

/// Instantiates every test for one database.
macro_rules! on {
    ($engine:ident, $($module:ident::$name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::$module::$name(crate::World::new(crate::Engine::$engine).await).await;
            }
        )*
    };
}

macro_rules! suite {
    ($($module:ident::$name:ident,)*) => {
        mod sqlite { on!(Sqlite, $($module::$name,)*); }
        mod postgres { on!(Postgres, $($module::$name,)*); }
    };
}

suite! {
    administration::the_first_organisation_is_founded_once,
    administration::members_have_one_role_in_each_organisation,
    administration::keys_are_found_by_hash_until_revoked,
    administration::keys_are_listed_newest_first_page_by_page,
    administration::a_keys_use_is_noted_once_a_minute,
    administration::a_place_has_one_live_budget,
    administration::resets_leave_old_windows_behind,
    administration::policy_is_read_whole_or_since_a_revision,
    administration::what_has_ended_is_not_read_with_the_whole_policy,
    administration::concurrent_changes_take_different_revisions,
    administration::a_database_keeps_its_history,
    administration::a_database_has_one_node,
    administration::a_database_is_looked_at_without_being_changed,
    calls::idempotent_calls_run_once,
    calls::stale_calls_give_way,
    control_planes::a_change_waits_for_the_data_planes_of_other_control_planes,
    control_planes::a_control_plane_tells_of_its_data_planes_where_others_may_be,
    control_planes::a_lease_is_renewed_while_one_data_plane_hangs_and_another_goes_on,
    control_planes::a_control_plane_that_is_not_heard_of_is_not_waited_for,
    freezes::a_freeze_is_policy_until_it_is_lifted,
    freezes::a_thing_is_frozen_once_and_there_is_an_end_to_them,
    ingest::records_are_written_once,
    ingest::the_truth_replaces_a_lapse_whatever_the_order,
    ingest::a_higher_revision_wins,
    ingest::windows_saturate,
    ingest::senseless_records_are_set_aside_and_acknowledged,
    ingest::text_no_database_takes_arrives_all_the_same,
    ingest::one_refused_record_does_not_hold_back_the_rest,
    ingest::a_record_that_was_set_aside_is_taken_in_once_it_can_be,
    ingest::a_database_that_is_not_as_it_should_be_takes_the_records_later,
    ingest::large_batches_are_whole,
    ingest::concurrent_repeats_count_once,
    ingest::an_empty_batch_is_acknowledged,
    sessions::what_sessions_spend_is_booked_once,
    sessions::the_truth_corrects_a_session_too,
    sessions::a_session_idle_for_a_day_begins_again,
    sessions::sessions_saturate_age_and_end_with_their_generation,
    thresholds::a_threshold_is_reached_once,
    thresholds::a_correction_does_not_tell_again_and_another_limit_or_generation_does,
    thresholds::many_writers_tell_each_threshold_once,
    events::an_event_keeps_everything,
    events::filters_hold_together,
    events::pages_tile_the_list,
    events::denials_are_listed_apart_and_age,
    events::reported_requests_are_unique,
    rebuilds::a_rebuild_waits_for_everyone_who_may_have_work,
    rebuilds::a_rebuild_is_one_control_planes_at_a_time,
    rebuilds::a_rebuild_that_begins_anew_has_nothing_delivered,
    rebuilds::a_delivery_that_makes_no_sense_is_told,
    rebuilds::books_tell_what_lapsed_and_what_is_recorded,
    explain::a_trail_is_read_as_it_was_told,
    explain::what_a_lapse_said_is_kept_and_never_replaces_the_truth,
    explain::a_lapse_told_by_a_sweeper_takes_the_trail_of_its_owner,
    explain::denials_go_with_their_trails,
    explain::a_trace_leads_to_its_newest_attempt,
    explain::budgets_keep_their_names_when_they_are_deleted,
    prices::a_price_is_kept_with_every_version_of_its_end,
    prices::a_refused_price_changes_nothing,
    prices::the_last_catalogue_is_in_force,
    prices::an_organisation_chooses_what_happens_without_a_price,
    prices::events_are_read_again_page_by_page_with_their_adjustments,
}

/// The two migration folders say the same, but for the names of types and the order of text.
#[test]
fn both_databases_have_the_same_migrations() {
    let read = |folder: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let name = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        files.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect::<Vec<_>>()
    };
    let plain = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("--"));
        lines
            .collect::<Vec<_>>()
            .join("\n")
            .replace(" COLLATE \"C\"", "")
            .replace("BYTEA", "BLOB")
            .replace(" WITHOUT ROWID", "")
    };
    let (sqlite, postgres) = (read("sqlite"), read("postgres"));
    assert_eq!(sqlite.len(), postgres.len(), "as many files");
    for ((name, sqlite), (other, postgres)) in sqlite.iter().zip(&postgres) {
        assert_eq!(name, other);
        assert_eq!(plain(sqlite), plain(postgres), "{name}");
    }
}

/// Nothing of the store goes untested on either database.
#[test]
fn every_operation_is_used_here() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let texts = |folder: &str| {
        let files = std::fs::read_dir(root.join(folder)).unwrap();
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect::<Vec<_>>()
    };
    let tests = texts("tests/store").concat();
    for source in texts("src/store") {
        for rest in source.split("pub async fn ").skip(1) {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(
                tests.contains(&format!(".{name}(")) || tests.contains(&format!("::{name}(")),
                "no test uses {name}"
            );
        }
    }
}
