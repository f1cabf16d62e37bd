//! Installs the programs and packages that the tests need and the machine lacks.
//!
//! Debian packages go into the system, everything else into `.venv` and `.tools`.

use crate::steps::{command, must};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Programs that the tests run, and their Debian packages.
const PACKAGES: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("memcached", "memcached"),
    ("tclsh", "tcl"),
    ("python3", "python3"),
    ("node", "nodejs"),
    ("npm", "npm"),
];

/// Services that these packages start. They are stopped, since the tests start their own servers.
const SERVICES: &[&str] = &["redis-server", "memcached"];

/// The folder in which Node finds the packages of the tests.
pub const NODE_PATH: &str = ".tools/node/node_modules";
/// The Python that has the packages of the tests.
pub const PYTHON: &str = ".venv/bin/python";

/// Packages that the tests import, in the versions they were written for.
const PYTHON_PACKAGES: &[&str] = &[
    "redis==8.1.0",
    "rq==3.0.0",
    "celery[redis]==5.7.0",
    "pymemcache==4.0.0",
    "django==5.2.19",
];
/// A Python module with a library in C, which Debian has for its own Python, and its package.
const PYLIBMC: (&str, &str) = ("pylibmc", "python3-pylibmc");
/// Debian's own Python, which may not be the first in `PATH`.
pub const DEBIAN_PYTHON: &str = "/usr/bin/python3";
const NODE_PACKAGES: &[&str] = &[
    "ioredis@6.0.0",
    "redis@6.3.1",
    "bullmq@6.7.0",
    "bull@4.16.5",
    "redlock@5.0.0-beta.2",
    "memcached@2.2.2",
];
/// Files that list which of them are installed.
const PYTHON_INSTALLED: &str = ".venv/installed-for-tests";
const NODE_INSTALLED: &str = ".tools/node/installed-for-tests";

/// Installs everything that is missing; returns at once if nothing is.
///
/// # Errors
/// A package cannot be installed; the text says what to do by hand.
pub fn everything() -> Result<(), String> {
    debian_packages()?;
    pylibmc()?;
    python()?;
    node()
}

/// The file of `program`, if it is on `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// A command that runs as root, through `sudo` if this process does not.
fn as_root(words: &[&str]) -> Command {
    let id = Command::new("id").arg("-u").output();
    let is_root = id.is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if is_root {
        command(words)
    } else {
        command(&[&["sudo"], words].concat())
    }
}

fn debian_packages() -> Result<(), String> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    if find("apt-get").is_none() {
        return Err(format!(
            "this system has no apt-get: please install {} by hand",
            missing.join(", ")
        ));
    }
    must(as_root(&["apt-get", "update"]).stdout(Stdio::null()))?;
    let install = ["apt-get", "install", "--yes", "--no-install-recommends"];
    must(
        as_root(&[&install, missing.as_slice()].concat())
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null()),
    )?;
    for service in SERVICES.iter().filter(|service| missing.contains(service)) {
        // Fails on a system without a service manager, where no service was started.
        let _ = as_root(&["service", service, "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
    Ok(())
}

fn pylibmc() -> Result<(), String> {
    let (module, package) = PYLIBMC;
    let import = format!("import {module}");
    let is_installed = command(&[DEBIAN_PYTHON, "-c", &import])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if is_installed {
        return Ok(());
    }
    println!("installing {package}");
    let install = [
        "apt-get",
        "install",
        "--yes",
        "--no-install-recommends",
        package,
    ];
    must(
        as_root(&install)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null()),
    )
}

fn python() -> Result<(), String> {
    if is_installed(PYTHON_INSTALLED, PYTHON_PACKAGES) {
        return Ok(());
    }
    println!("installing {} into .venv", PYTHON_PACKAGES.join(" "));
    if must(&mut command(&["python3", "-m", "venv", ".venv"])).is_err() {
        // Debian has a separate package for venv.
        must(as_root(&["apt-get", "install", "--yes", "python3-venv"]).stdout(Stdio::null()))?;
        must(&mut command(&["python3", "-m", "venv", ".venv"]))?;
    }
    must(command(&[PYTHON, "-m", "pip", "install", "--quiet"]).args(PYTHON_PACKAGES))?;
    record_installed(PYTHON_INSTALLED, PYTHON_PACKAGES)
}

fn node() -> Result<(), String> {
    if is_installed(NODE_INSTALLED, NODE_PACKAGES) {
        return Ok(());
    }
    println!("installing {} into .tools/node", NODE_PACKAGES.join(" "));
    std::fs::create_dir_all(".tools/node")
        .map_err(|error| format!("cannot create .tools/node: {error}"))?;
    let install = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--silent",
        "--prefix",
        ".tools/node",
    ];
    must(command(&install).args(NODE_PACKAGES))?;
    record_installed(NODE_INSTALLED, NODE_PACKAGES)
}

fn is_installed(file: &str, packages: &[&str]) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.lines().eq(packages.iter().copied()))
}

fn record_installed(file: &str, packages: &[&str]) -> Result<(), String> {
    std::fs::write(file, packages.join("\n"))
        .map_err(|error| format!("cannot write {file}: {error}"))
}
