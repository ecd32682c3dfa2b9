//! `nullspend ext-proc`: one data plane of any number on one Redis, for the Envoy beside it.

use anyhow::{Context as _, bail};

use crate::{
    config::Config,
    paths::Paths,
    planes::{self, Serving},
    signals::StopSignals,
    up::limits,
};

/// Runs until SIGTERM or SIGINT, then ends what is in flight. Needs no control plane once it has a policy (design
/// law 7): what the last run left is settled while this one serves.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut stop_signals = StopSignals::listen()?;
    limits::raise_open_files();
    let Some(control_plane) = &config.ext_proc.control_plane else {
        bail!(
            "ext_proc.control_plane (NULLSPEND_EXT_PROC_CONTROL_PLANE) is not set: write where the control plane's \
             internal service listens, e.g. control-plane:9443 or unix:/run/nullspend/internal.sock"
        );
    };
    if control_plane.is_tcp() && config.join_token.is_none() {
        bail!("internal.join_token (NULLSPEND_INTERNAL_JOIN_TOKEN) is not set: write the control plane's");
    }
    let parts = planes::shared_ledger(&config, "ext-proc")?;
    let paths = Paths::prepare(&config.data_dir)?;
    let _lock = paths.lock()?;
    let plane = planes::data_plane(&config, &paths.spool(), parts, control_plane)?;
    plane.resume().context("close the calls that the last run left open")?;
    let mut serving = Serving::default();
    let (envoy, admin) = (config.ext_proc.listen(&paths), config.ext_proc.admin(&paths));
    serving.data_plane(&plane, &envoy, &admin).await?;
    println!("data plane {} serves Envoy at {envoy}, follows {control_plane}", plane.id());

    let failed = tokio::select! {
        () = stop_signals.next() => None,
        error = serving.failed() => Some(error),
    };
    if failed.is_none() {
        tracing::info!(in_flight = plane.in_flight(), grace = ?config.shutdown_grace, "draining");
        let idle = planes::wait_until(config.shutdown_grace, || plane.in_flight() == 0);
        tokio::select! {
            _ = idle => {}
            () = stop_signals.next() => tracing::warn!("asked twice to end: what is in flight is cut"),
        }
    }
    planes::stop_data_plane(&plane, &serving).await;
    serving.ended().await;
    failed.map_or(Ok(()), Err)
}
