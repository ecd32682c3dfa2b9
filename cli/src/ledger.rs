//! `nullspend ledger`: an operator's word on the ledger.

use std::sync::Arc;

use anyhow::bail;
use nullspend_control_plane::{
    ControlPlane,
    app::Totals,
    store::{Standing, Store},
};
use nullspend_core::{id::RandomIds, money::Nanos};

use crate::{
    config::Config,
    paths::Paths,
    planes::{self, database_url},
    up::{node_id, open_control_plane},
};

/// Makes this data directory's node the owner of the database's in-process ledger, when the operator has confirmed it.
pub async fn take_over(config: &Config, confirmed: bool) -> anyhow::Result<()> {
    if !confirmed {
        bail!(
            "the spool of the node that owns this database may hold cost that was not reported yet; start that node \
             once more if it can still run. If it is gone for good, repeat with --yes"
        );
    }
    let paths = Paths::prepare(&config.data_dir)?;
    let _lock = paths.lock()?;
    let node = node_id(&paths.data_dir, &RandomIds)?;
    let control_plane = open_control_plane(&database_url(config, &paths)).await?;
    let before = control_plane.take_over_node(&node).await?;
    control_plane.close().await;
    println!(
        "the database belonged to node {before} and now belongs to node {node} of {}",
        paths.data_dir.display()
    );
    Ok(())
}

/// Compares every window's settled total in Redis with the database. True when they agree.
pub async fn verify(config: &Config) -> anyhow::Result<bool> {
    let control_plane = shared(config, "verify").await?;
    let compared = control_plane.compare_ledger().await?;
    control_plane.close().await;
    if !compared.lost.is_empty() {
        bail!("the books of {} organisations are lost and not made again yet", compared.lost.len());
    }
    let totals = compared.totals;
    let differing: Vec<_> = totals.iter().filter(|totals| totals.drift() != Nanos::ZERO).collect();
    for totals in &differing {
        let window = totals.counter;
        println!(
            "budget {} generation {} window {}: the ledger has {}, the database {}",
            window.budget, window.generation, window.window_start_ms, totals.ledger, totals.after
        );
    }
    if differing.is_empty() {
        println!("ledger and database agree on {} windows", totals.len());
    } else {
        let (some, all) = (differing.len(), totals.len());
        println!("{some} of {all} windows differ; `nullspend ledger rebuild` makes them again");
    }
    if let Some(moved) = totals.iter().map(Totals::moved).max().filter(|moved| *moved > Nanos::ZERO) {
        println!("calls went on meanwhile: differences of up to {moved} would not show");
    }
    Ok(differing.is_empty())
}

/// Gives the books in Redis up, so that they are made again, without the data planes that are gone for good.
pub async fn rebuild(config: &Config, without: &[String], confirmed: bool) -> anyhow::Result<()> {
    if !confirmed {
        bail!(
            "calls are refused with 503 budget_unavailable until every data plane has told what it has under way, which \
             takes a second or two; cost that only a data plane named by --without knows is left out until it comes \
             back. Repeat with --yes"
        );
    }
    let control_plane = shared(config, "rebuild").await?;
    for dataplane in without {
        if !control_plane.write_off(dataplane).await? {
            bail!(
                "no data plane {dataplane} is known; the control plane's log names those that a rebuild waits for"
            );
        }
        println!("data plane {dataplane} is not waited for any more");
    }
    control_plane.give_up_ledger().await?;
    control_plane.close().await;
    println!("the running control plane makes the books again; its log says when it is done");
    Ok(())
}

async fn shared(config: &Config, what: &str) -> anyhow::Result<Arc<ControlPlane>> {
    if config.redis_url.is_none() {
        bail!(
            "`nullspend ledger {what}` is for a ledger in Redis (redis_url); the one inside `nullspend up` is made from \
             the database at each start, and its metric nullspend_control_ledger_drift_nanodollars compares the two"
        );
    }
    let parts = planes::shared_ledger(config, "ledger")?;
    let url = database_url(config, &Paths::prepare(&config.data_dir)?);
    // Control planes of another version may be running on it.
    if Store::examine(&url).await? != Standing::Current {
        bail!(
            "the database is not of this version of the program: run the one that its control planes run, or \
             `nullspend migrate` first"
        );
    }
    planes::control_plane(&url, None, None, parts).await
}
