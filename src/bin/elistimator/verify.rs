//! `verify`: is everything whole?

use std::path::PathBuf;

use elistimator::inspect::ModelDir;
use elistimator::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::output::{Outcome, shown};

/// Checks every file of every checkpoint against its length and checksum; exits with 1 if any is damaged.
#[derive(clap::Args)]
pub struct Args {
    /// The model directory.
    dir: PathBuf,
}

impl Args {
    pub fn run(&self) -> Result<Outcome> {
        let verdicts = ModelDir::open(&self.dir)?.verify()?;
        if verdicts.iter().all(|verdict| verdict.step.is_none()) {
            let message = format!("there is no checkpoint in {}", self.dir.display());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let (mut text, mut list, mut damaged) = (String::new(), Vec::new(), 0);
        for verdict in &verdicts {
            let name = verdict.step.map_or("index".to_owned(), |step| format!("step {step}"));
            if verdict.faults.is_empty() {
                text += &format!("{name}: ok\n");
            }
            for fault in &verdict.faults {
                text += &format!("{name}: DAMAGED: {}\n", shown(&fault.to_string()));
            }
            damaged += usize::from(!verdict.faults.is_empty());
            list.push(json!({
                "step": verdict.step,
                "path": verdict.path.display().to_string(),
                "is_whole": verdict.faults.is_empty(),
                "faults": verdict.faults.iter().map(|fault| Value::String(fault.to_string())).collect::<Value>(),
            }));
        }
        let json = json!({ "dir": self.dir.display().to_string(), "damaged": damaged, "checked": list });
        Ok(Outcome { text, json, found_damage: damaged > 0 })
    }
}
