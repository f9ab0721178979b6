//! `export`: the weights on their own.

use std::fs::Permissions;
use std::io::Write;
use std::path::{Path, PathBuf};

use elistimator::inspect::ModelDir;
use elistimator::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::output::{Outcome, info_json, shown};
use crate::select::Choice;
use crate::show::hyper_parameters;

/// Writes the weights of a checkpoint, the best unless another is named, into one safetensors file, and signature and
/// hyper-parameters into a JSON file of the same name beside it.
#[derive(clap::Args)]
pub struct Args {
    /// The model directory.
    dir: PathBuf,
    /// The safetensors file; best.safetensors goes with best.json.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replaces files that exist.
    #[arg(long)]
    force: bool,
    /// The checkpoint that was saved last.
    #[arg(long, conflicts_with_all = ["step", "best", "monitor"])]
    latest: bool,
    #[command(flatten)]
    choice: Choice,
}

impl Args {
    pub fn run(&self) -> Result<Outcome> {
        let dir = ModelDir::open(&self.dir)?;
        let beside = self.beside()?;
        self.check(&self.output)?;
        self.check(&beside)?;
        let step = if self.latest { dir.latest()? } else { self.choice.or_best(&dir)? }.step;
        let (contents, weights) = (dir.contents(step)?, dir.weights(step)?);
        let mut object = info_json(&contents.info);
        for (name, value) in [
            ("hyper_parameters", hyper_parameters(&contents)),
            ("signature", json!(contents.signature)),
            ("version", json!(contents.settings.get("version"))),
            ("revision", json!(contents.settings.get("revision"))),
        ] {
            object.insert(name.into(), value);
        }
        let text = format!("{:#}\n", Value::Object(object));
        // Both are on the disk before either gets its name.
        let (weights, description) = (temporary(&self.output, &weights)?, temporary(&beside, text.as_bytes())?);
        self.name(description, &beside)?;
        if let Err(error) = self.name(weights, &self.output) {
            if !self.force {
                let _ = std::fs::remove_file(&beside);
            }
            return Err(error);
        }
        let (output, beside) = (self.output.display().to_string(), beside.display().to_string());
        let text = format!("step {step}: {}, {}\n", shown(&output), shown(&beside));
        Ok(Outcome::new(text, json!({ "step": step, "weights": output, "description": beside })))
    }

    fn beside(&self) -> Result<PathBuf> {
        if self.output.as_os_str() == "-" {
            let message = "-: expected the name of a file, since two are written";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let beside = self.output.with_extension("json");
        if beside == self.output || self.output.file_name().is_none() {
            let message = format!("{}: expected the name of a file that does not end in .json", self.output.display());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let parent = parent(&self.output);
        let real = |path: &Path, kind| {
            path.canonicalize()
                .map_err(|error| Error::with_source(kind, format!("there is no {}", path.display()), error))
        };
        let (parent, own) = (real(parent, ErrorKind::NotFound)?, real(&self.dir, ErrorKind::NotFound)?);
        if parent.starts_with(own.join("checkpoints")) {
            let message = format!("{} is among the checkpoints, where only a run may write", self.output.display());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(beside)
    }

    fn check(&self, path: &Path) -> Result<()> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => {
                Err(Error::new(ErrorKind::Io, format!("{} is a directory, expected a file", path.display())))
            }
            Ok(_) if !self.force => Err(exists(path)),
            _ => Ok(()),
        }
    }

    fn name(&self, file: NamedTempFile, path: &Path) -> Result<()> {
        let named = if self.force { file.persist(path) } else { file.persist_noclobber(path) };
        named.map(drop).map_err(|error| match error.error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(path),
            _ => failed(path, error.error),
        })
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn exists(path: &Path) -> Error {
    Error::new(ErrorKind::Io, format!("{} exists; --force replaces it", path.display()))
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Io, format!("cannot write {}", path.display()), error)
}

/// A file without a name yet, on the disk, next to where it is going to be.
fn temporary(path: &Path, bytes: &[u8]) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    if let Some(permissions) = permissions() {
        builder.permissions(permissions);
    }
    let mut write = || {
        let mut file = builder.prefix(".elistimator-").tempfile_in(parent(path))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        Ok(file)
    };
    write().map_err(|error| failed(path, error))
}

/// Those of any new file, which the umask takes from; a temporary file's own are for its owner alone.
#[cfg(unix)]
fn permissions() -> Option<Permissions> {
    use std::os::unix::fs::PermissionsExt;
    Some(Permissions::from_mode(0o666))
}

#[cfg(not(unix))]
fn permissions() -> Option<Permissions> {
    None
}
