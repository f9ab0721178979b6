//! The double of the driver: how a test comes to run on it, and what it has noted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// In the process with the double: its log. Elsewhere: runs the test of this name there, with these variables, and returns
/// `None`.
pub fn double(test: &str, variables: &[(&str, &str)]) -> Option<Log> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    if std::env::var_os("ELISTIMATOR_GPU").is_some() {
        return Some(Log { path: None, start: 0 });
    }
    if let Ok(path) = std::env::var("DRIVER_LOG") {
        return Some(Log { path: Some(path.into()), start: 0 });
    }
    let library = LIBRARY.get_or_init(|| {
        let flags = ["-O2", "-w", "-shared", "-fPIC"];
        let is_rounded = std::env::var_os("DRIVER_ROUNDING").is_some();
        let more: &[&str] = if is_rounded { &["-DROUNDING", "-mfma", "-ffp-contract=fast"] } else { &[] };
        // Each program of tests its own, since they may run at once.
        let name = format!("libdriver-{}{}.so", env!("CARGO_CRATE_NAME"), if is_rounded { "-rounded" } else { "" });
        super::compile(&flags, more, "driver.cpp", &Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    });
    let Some(library) = library else {
        println!("skipped: there is no g++ to compile the driver's double with");
        return None;
    };
    // The same test may run at the same time, with another profile or features.
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", library)
        .env("DRIVER_LOG", &log)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    None
}

/// What the double has noted; nothing on a real device.
pub struct Log {
    path: Option<PathBuf>,
    start: usize,
}

impl Log {
    /// Whether this is a real device, which notes nothing.
    pub fn is_of_a_gpu(&self) -> bool {
        self.path.is_none()
    }

    /// Counts of each kind of line since the last call.
    pub fn counts(&mut self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in self.lines() {
            let kind = line.split(' ').next().unwrap();
            *counts.entry(kind.to_owned()).or_default() += 1;
            if kind == "launch" {
                *counts.entry(line.to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// The lines since the last call.
    pub fn lines(&mut self) -> Vec<String> {
        let Some(path) = &self.path else { return Vec::new() };
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text[self.start..].lines().map(str::to_owned).collect();
        self.start = text.len();
        lines
    }
}
