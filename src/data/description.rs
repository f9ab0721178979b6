//! Pipelines in words: for a reader, and for the comparison with a saved run.

use std::fmt;
use std::sync::Arc;

use crate::data::Dataset;
use crate::data::dataset::Stage;

impl Dataset {
    /// What the data is made of, in words: sources with their lengths and a checksum of a sample, and stages. A resumed
    /// run compares it with the saved one's, so it leaves out what changes no record: threads, records made ready ahead.
    pub fn fingerprint(&self) -> String {
        let mut out = String::new();
        fingerprint(&self.stage, &mut out);
        out
    }

    /// The pipeline for a reader, one stage a line from the source on, the inputs of a stage with several indented under
    /// it. It is also how a `Dataset` prints with `{}`.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Record};
    ///
    /// let data = Dataset::from_records(vec![Record::new()]).map(Ok).batch(32).prefetch(2);
    /// let lines: Vec<_> = data.describe().lines().skip(1).map(str::to_owned).collect();
    /// assert_eq!(lines, ["map", "batch(32)", "prefetch(2)"]);
    /// ```
    pub fn describe(&self) -> String {
        let mut lines = Vec::new();
        outline(&self.stage, 0, &mut lines);
        lines.join("\n")
    }
}

fn fingerprint(stage: &Arc<dyn Stage>, out: &mut String) {
    if let Some(input) = stage.input() {
        fingerprint(input, out);
        // The size of batches is compared on its own, but only that at the end of a pipeline.
        if let Some(size) = input.batch_size().filter(|size| stage.batch_size() != Some(*size)) {
            out.push_str(&format!(" of {size}"));
        }
    }
    let before = out.len();
    stage.describe(out);
    let branches: Vec<String> = stage
        .branches()
        .iter()
        .map(|branch| {
            let mut out = String::new();
            fingerprint(branch, &mut out);
            // Batches are compared by their size on its own, but only those at the end of a pipeline.
            branch.batch_size().map_or(out.clone(), |size| format!("{out} of {size}"))
        })
        .collect();
    if !branches.is_empty() {
        out.push_str(&format!("[{}]", branches.join(" | ")));
    }
    if before > 0 && out.len() > before {
        out.insert_str(before, ", ");
    }
}

fn outline(stage: &Arc<dyn Stage>, indent: usize, lines: &mut Vec<String>) {
    if let Some(input) = stage.input() {
        outline(input, indent, lines);
    }
    let label = stage.label();
    if !label.is_empty() {
        lines.push(format!("{:width$}{label}", "", width = 4 * indent));
    }
    for (index, branch) in stage.branches().iter().enumerate() {
        lines.push(format!("{:width$}{}:", "", index + 1, width = 4 * indent + 2));
        outline(branch, indent + 1, lines);
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dataset({})", self.fingerprint())
    }
}
