//! `nullspend control-plane`: the API, the dashboard's data, and the policy that data planes follow, as one process of
//! any number on one database and one Redis.

use crate::{
    config::Config,
    paths::Paths,
    planes::{self, Serving, database_url},
    signals::StopSignals,
    up::banner,
};

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut stop_signals = StopSignals::listen()?;
    let parts = planes::shared_ledger(&config, "control-plane")?;
    let paths = Paths::prepare(&config.data_dir)?;
    let _lock = paths.lock()?;
    let url = database_url(&config, &paths);
    let plane =
        planes::control_plane(&url, config.catalogue_file.clone(), config.api_calls_per_minute, parts)
            .await?;
    let first_start = plane.bootstrap(config.bootstrap_key.clone()).await?;
    plane.load_catalogue().await?;

    let mut serving = Serving::default();
    let at = &config.control_plane;
    serving.internal(&plane, &at.internal(&paths), config.join_token.as_ref()).await?;
    serving.follow_ledger(&plane).await;
    serving.control_plane(&plane, &at.listen(&paths), &at.admin(&paths)).await?;
    banner::control_plane(&config, &paths, first_start);

    let failed = tokio::select! {
        () = stop_signals.next() => None,
        error = serving.failed() => Some(error),
    };
    serving.stop.cancel();
    serving.stop_internal.cancel();
    serving.ended().await;
    plane.close().await;
    failed.map_or(Ok(()), Err)
}
