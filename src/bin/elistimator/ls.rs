//! `ls`: what there is.

use std::path::PathBuf;

use elistimator::Result;
use elistimator::inspect::ModelDir;
use serde_json::{Value, json};

use crate::output::{Outcome, info_json, metrics_text, shown, size, table, time_text};
use crate::select::Best;

/// Lists the checkpoints: step, time, metrics, size, and which is the best, the latest, or pinned.
#[derive(clap::Args)]
pub struct Args {
    /// The model directory.
    dir: PathBuf,
    #[command(flatten)]
    best: Best,
}

impl Args {
    pub fn run(&self) -> Result<Outcome> {
        let dir = ModelDir::open(&self.dir)?;
        let monitor = self.best.monitor(&dir);
        let (best, latest) = (dir.best(&monitor).ok(), dir.latest().ok());
        let (mut rows, mut list) = (Vec::new(), Vec::new());
        for info in dir.checkpoints() {
            let is_best = best.as_ref().is_some_and(|best| best.step == info.step);
            let is_latest = latest.as_ref().is_some_and(|latest| latest.step == info.step);
            let marks = [
                (is_best, "best"),
                (is_latest, "latest"),
                (info.is_pinned, "pinned"),
                (!info.is_finite, "weights not finite"),
            ];
            let marks: Vec<&str> = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect();
            let mut object = info_json(&info);
            object.insert("is_best".into(), is_best.into());
            object.insert("is_latest".into(), is_latest.into());
            list.push(Value::Object(object));
            rows.push(vec![
                info.step.to_string(),
                time_text(&info),
                metrics_text(info.metrics.as_ref()),
                size(info.bytes),
                marks.join(", "),
            ]);
        }
        let text = if rows.is_empty() {
            format!("no checkpoints in {}\n", shown(&self.dir.display().to_string()))
        } else {
            rows.insert(0, ["step", "saved", "metrics", "size", ""].map(str::to_owned).to_vec());
            table(&rows)
        };
        let json = json!({ "dir": self.dir.display().to_string(), "monitor": monitor, "checkpoints": list });
        Ok(Outcome::new(text, json))
    }
}
