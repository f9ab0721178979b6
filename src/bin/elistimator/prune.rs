//! `prune`: deletes old checkpoints.

use std::path::PathBuf;

use elistimator::Result;
use elistimator::inspect::ModelDir;
use serde_json::{Value, json};

use crate::output::{Outcome, info_json, size};
use crate::select::Best;

/// Deletes all checkpoints but the last N; the best, the latest and pinned ones are kept in any case.
///
/// It refuses while a run writes to the directory, and when a checkpoint that would be kept is damaged.
#[derive(clap::Args)]
pub struct Args {
    /// The model directory.
    dir: PathBuf,
    /// How many of the last checkpoints to keep.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: u32,
    /// Only says what would be deleted.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    best: Best,
}

impl Args {
    pub fn run(&self) -> Result<Outcome> {
        // What the run calls the best is kept whatever else is named.
        let mut monitors = vec![ModelDir::open(&self.dir)?.monitor()];
        monitors.extend(self.best.given());
        let keep = usize::try_from(self.keep).unwrap_or(usize::MAX);
        let pruned = ModelDir::prune(&self.dir, keep, &monitors, self.dry_run)?;
        let verb = if self.dry_run { "would delete" } else { "deleted" };
        let mut text = String::new();
        for info in &pruned.deleted {
            text += &format!("{verb} step {} ({})\n", info.step, size(info.bytes));
        }
        let freed = pruned.deleted.iter().fold(0u64, |sum, info| sum.saturating_add(info.bytes));
        let (deleted, kept) = (pruned.deleted.len(), pruned.kept.len());
        text += &format!("{verb} {deleted}, kept {kept}, {} freed\n", size(freed));
        let objects = |list: &[elistimator::checkpoint::CheckpointInfo]| -> Value {
            list.iter().map(|info| Value::Object(info_json(info))).collect()
        };
        let json = json!({
            "dry_run": self.dry_run,
            "deleted": objects(&pruned.deleted),
            "kept": objects(&pruned.kept),
            "bytes_freed": freed,
        });
        Ok(Outcome::new(text, json))
    }
}
