//! `nullspend doctor`: what this machine lacks, with what to do about it.

use std::{fs, net::TcpListener};

use nullspend_control_plane::store::{Standing, Store};
use nullspend_core::price::Catalogue;
use secrecy::SecretString;

use crate::{config::Config, envoy::binary, paths::Paths, planes::database_url};

type Finding = Result<String, String>;

/// Looks at everything, prints a line for each, and says whether `up` would start.
pub async fn run(config: &Config) -> bool {
    let paths = Paths::prepare(&config.data_dir);
    let directory = match &paths {
        Ok(paths) => Ok(format!("{} (sockets in {})", paths.data_dir.display(), paths.sockets().display())),
        Err(error) => Err(format!("{error}")),
    };
    let mut findings: Vec<(&str, Finding)> = vec![
        ("envoy", find_envoy(config)),
        ("data directory", directory),
        ("ingress port", port(config)),
        ("certificates", certificates(config)),
        ("price catalogue", catalogue(config)),
    ];
    if let Ok(paths) = &paths {
        findings.push(("in use", in_use(paths)));
        findings.push(("database", database(&database_url(config, paths)).await));
    }
    for (what, finding) in &findings {
        match finding {
            Ok(good) => println!("ok    {what}: {good}"),
            Err(bad) => println!("FAIL  {what}: {bad}"),
        }
    }
    findings.iter().all(|(_, finding)| finding.is_ok())
}

fn find_envoy(config: &Config) -> Finding {
    let found = binary::find(config.envoy.binary.as_deref());
    found
        .map(|envoy| format!("{} {}", envoy.path.display(), envoy.version))
        .map_err(|error| error.to_string())
}

fn port(config: &Config) -> Finding {
    TcpListener::bind(config.listen).map(|_| format!("{} is free", config.listen)).map_err(|error| {
        format!(
            "{} cannot be listened on ({error}); stop what uses it, or set NULLSPEND_LISTEN",
            config.listen
        )
    })
}

fn certificates(config: &Config) -> Finding {
    let path = &config.envoy.ca_file;
    match fs::metadata(path) {
        Ok(_) => Ok(path.display().to_string()),
        Err(error) if config.upstreams.iter().any(|upstream| upstream.base_url.starts_with("https://")) => {
            Err(format!(
                "{} cannot be read ({error}); install the package ca-certificates, or set NULLSPEND_ENVOY_CA_FILE",
                path.display()
            ))
        }
        Err(_) => Ok("none, and no upstream needs one".to_owned()),
    }
}

fn catalogue(config: &Config) -> Finding {
    let Some(path) = &config.catalogue_file else { return Ok("the program's own".to_owned()) };
    let text =
        fs::read_to_string(path).map_err(|error| format!("{} cannot be read ({error})", path.display()))?;
    match Catalogue::parse(&text) {
        Ok(catalogue) => Ok(format!("{}, version {}", path.display(), catalogue.version())),
        Err(error) => Err(format!("{}: {:#}", path.display(), anyhow::Error::from(error))),
    }
}

fn in_use(paths: &Paths) -> Finding {
    paths.lock().map(|_| "by nobody else".to_owned()).map_err(|error| error.to_string())
}

async fn database(url: &SecretString) -> Finding {
    match Store::examine(url).await {
        Ok(Standing::New) => Ok("new; the first start makes its tables".to_owned()),
        Ok(Standing::Older) => Ok("of an earlier version; the next start brings it up to date".to_owned()),
        Ok(Standing::Current) => Ok("answers".to_owned()),
        Ok(Standing::Newer) => Err("of a later version; run that one, or restore a backup".to_owned()),
        Err(error) => Err(format!("{:#}", anyhow::Error::from(error))),
    }
}
