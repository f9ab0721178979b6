//! `plot`: the curves of a run.

use std::path::PathBuf;

use elistimator::Result;
use elistimator::summary::{History, plot};
use serde_json::json;

use crate::output::{Outcome, shown};

/// Draws loss and metrics over the steps, and the last confusion matrices, into an SVG file, from the run's history.jsonl.
#[derive(clap::Args)]
pub struct Args {
    /// The model directory.
    dir: PathBuf,
    /// The SVG file; one that exists is replaced.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Draws speed, waiting for data and memory too.
    #[arg(long)]
    all: bool,
}

impl Args {
    pub fn run(&self) -> Result<Outcome> {
        let history = History::load(&self.dir)?;
        let history = if self.all { history } else { history.without_machine() };
        plot::curves(&history, &self.output)?;
        let output = self.output.display().to_string();
        let json = json!({ "output": output, "records": history.records().len(), "series": history.names(), "matrices": history.matrices() });
        Ok(Outcome::new(format!("{}\n", shown(&output)), json))
    }
}
