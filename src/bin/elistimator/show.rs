//! `show`: what a checkpoint holds.

use std::fmt::Write;
use std::path::PathBuf;

use elistimator::Result;
use elistimator::inspect::{Contents, ModelDir, TensorInfo};
use serde_json::{Value, json};

use crate::output::{Outcome, info_json, metrics_text, number, shown, size, table, time_text};
use crate::select::Choice;

/// Shows a checkpoint, the latest unless another is named: signature, hyper-parameters, settings, tensors.
#[derive(clap::Args)]
pub struct Args {
    /// The model directory.
    dir: PathBuf,
    #[command(flatten)]
    choice: Choice,
}

impl Args {
    pub fn run(&self) -> Result<Outcome> {
        let dir = ModelDir::open(&self.dir)?;
        let contents = dir.contents(self.choice.or_latest(&dir)?.step)?;
        Ok(Outcome::new(text(&contents), json(&contents)))
    }
}

fn total(tensors: &[TensorInfo]) -> u64 {
    tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.len))
}

fn text(contents: &Contents) -> String {
    let info = &contents.info;
    let mut rows = vec![
        ("path", info.path.display().to_string()),
        ("saved", time_text(info)),
        ("size", size(info.bytes)),
        ("position", format!("epoch {}, batch {}", contents.epoch, contents.batch)),
        ("metrics", metrics_text(info.metrics.as_ref())),
        ("seed", contents.seed.to_string()),
    ];
    if info.is_pinned {
        rows.push(("pinned", "yes".into()));
    }
    if !info.is_finite {
        rows.push(("finite", "no: some weights are NaN or infinite".into()));
    }
    let known = ["seed", "hyper_parameters"];
    for (name, value) in contents.settings.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
        rows.push((name, if value == "null" { "none".into() } else { value.clone() }));
    }
    if !contents.kept.is_empty() {
        rows.push(("kept", contents.kept.join(", ")));
    }
    let mut text = format!("Step {}\n", info.step);
    let rows: Vec<_> =
        rows.iter().map(|(name, value)| vec![format!("  {}", shown(name)), shown(value).into()]).collect();
    text.push_str(&table(&rows));
    text.push_str("Inputs\n");
    match &contents.signature {
        Some(signature) => {
            signature.to_string().lines().for_each(|line| text.extend([&shown(line), "\n"]));
        }
        None => text.push_str("  not known: saved before any data was seen\n"),
    }
    let _ = writeln!(text, "Hyper-parameters\n  {}", shown(&contents.hyper_parameters));
    tensors(&mut text, "Weights", &contents.weights);
    tensors(&mut text, "Optimizer", &contents.optimizer);
    text
}

fn tensors(text: &mut String, title: &str, tensors: &[TensorInfo]) {
    let _ = writeln!(text, "{title}: {} values in {} tensors", total(tensors), tensors.len());
    let row = |tensor: &TensorInfo| {
        let norm = format!("norm {:.6}", tensor.norm);
        vec![format!("  {}", shown(&tensor.name)), tensor.dtype.to_owned(), format!("{:?}", tensor.dims), norm]
    };
    text.push_str(&table(&tensors.iter().map(row).collect::<Vec<_>>()));
}

fn json(contents: &Contents) -> Value {
    let tensors = |tensors: &[TensorInfo]| -> Value {
        let tensor = |tensor: &TensorInfo| {
            json!({
                "name": tensor.name,
                "dtype": tensor.dtype,
                "shape": tensor.dims,
                "values": tensor.len,
                "norm": number(tensor.norm),
            })
        };
        tensors.iter().map(tensor).collect()
    };
    let mut object = info_json(&contents.info);
    object.insert("epoch".into(), contents.epoch.into());
    object.insert("batch".into(), contents.batch.into());
    object.insert("seed".into(), contents.seed.into());
    object.insert("hyper_parameters".into(), hyper_parameters(contents));
    object.insert("signature".into(), json!(contents.signature));
    object.insert("settings".into(), json!(contents.settings));
    object.insert("kept".into(), json!(contents.kept));
    object.insert("parameters".into(), total(&contents.weights).into());
    object.insert("weights".into(), tensors(&contents.weights));
    object.insert("optimizer".into(), tensors(&contents.optimizer));
    Value::Object(object)
}

/// As JSON; as the text that it is where it is none.
pub fn hyper_parameters(contents: &Contents) -> Value {
    serde_json::from_str(&contents.hyper_parameters)
        .unwrap_or_else(|_| Value::String(contents.hyper_parameters.clone()))
}
