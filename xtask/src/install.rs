//! Installs what the tests need and the machine lacks.
//!
//! Debian packages go into the system; everything else into `.venv` and `.tools`.

use crate::steps::{command, must};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Programs the tests run, and the Debian packages that have them.
const PACKAGES: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("memcached", "memcached"),
    ("tclsh", "tcl"),
    ("python3", "python3"),
    ("node", "nodejs"),
    ("npm", "npm"),
];

/// Services that these packages start; the tests start their own.
const SERVICES: &[&str] = &["redis-server", "memcached"];

/// The folder in which Node finds the packages of the tests.
pub const NODE_PATH: &str = ".tools/node/node_modules";
/// The Python that has the packages of the tests.
pub const PYTHON: &str = ".venv/bin/python";

/// What the tests import, in versions that they were written for.
const PYTHON_PACKAGES: &[&str] = &["redis==8.1.0", "rq==3.0.0", "celery[redis]==5.7.0"];
const NODE_PACKAGES: &[&str] = &[
    "ioredis@6.0.0",
    "redis@6.3.1",
    "bullmq@6.7.0",
    "bull@4.16.5",
    "redlock@5.0.0-beta.2",
];
/// Where it is written down which of them are installed.
const PYTHON_INSTALLED: &str = ".venv/installed-for-tests";
const NODE_INSTALLED: &str = ".tools/node/installed-for-tests";

/// Installs all that is missing; does nothing, at once, when nothing is.
///
/// # Errors
/// A package cannot be installed; the text says what to do by hand.
pub fn everything() -> Result<(), String> {
    debian_packages()?;
    python()?;
    node()
}

/// Where `program` is, if it is on the path.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// A command that runs as root, through `sudo` when we are not.
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
        // Where nothing manages services, none was started.
        let _ = as_root(&["service", service, "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
    Ok(())
}

fn python() -> Result<(), String> {
    if is_installed(PYTHON_INSTALLED, PYTHON_PACKAGES) {
        return Ok(());
    }
    println!("installing {} into .venv", PYTHON_PACKAGES.join(" "));
    if must(&mut command(&["python3", "-m", "venv", ".venv"])).is_err() {
        // Debian keeps venv in a package of its own.
        must(as_root(&["apt-get", "install", "--yes", "python3-venv"]).stdout(Stdio::null()))?;
        must(&mut command(&["python3", "-m", "venv", ".venv"]))?;
    }
    must(command(&[PYTHON, "-m", "pip", "install", "--quiet"]).args(PYTHON_PACKAGES))?;
    write_down(PYTHON_INSTALLED, PYTHON_PACKAGES)
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
    write_down(NODE_INSTALLED, NODE_PACKAGES)
}

fn is_installed(file: &str, packages: &[&str]) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.lines().eq(packages.iter().copied()))
}

fn write_down(file: &str, packages: &[&str]) -> Result<(), String> {
    std::fs::write(file, packages.join("\n"))
        .map_err(|error| format!("cannot write {file}: {error}"))
}
