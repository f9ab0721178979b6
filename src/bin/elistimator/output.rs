//! What a sub-command prints.

use std::borrow::Cow;

use elistimator::checkpoint::{CheckpointInfo, MetricValues};
use elistimator::progress::metrics_line;
use serde_json::{Map, Value, json};

/// What a sub-command found, in both forms.
pub struct Outcome {
    pub text: String,
    pub json: Value,
    pub found_damage: bool,
}

impl Outcome {
    pub fn new(text: String, json: Value) -> Self {
        Self { text, json, found_damage: false }
    }
}

/// A text from a file on one line: it must not move a terminal's cursor.
pub fn shown(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        return text.chars().map(escape).collect::<String>().into();
    }
    text.into()
}

/// Lines with their cells below each other; numbers of all columns but the last are padded.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// JSON has no NaN and no infinity: they are strings, as in the history.
pub fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { Value::String(value.to_string()) }
}

pub fn metrics_json(metrics: Option<&MetricValues>) -> Value {
    let values = |metrics: &MetricValues| -> Map<String, Value> {
        metrics.iter().map(|(name, value)| (name.clone(), number(*value))).collect()
    };
    metrics.map_or(Value::Null, |metrics| Value::Object(values(metrics)))
}

pub fn metrics_text(metrics: Option<&MetricValues>) -> String {
    let line = |metrics: &MetricValues| metrics_line(metrics.iter().map(|(name, value)| (name.as_str(), *value)));
    metrics.map_or("-".to_owned(), |metrics| shown(&line(metrics)).into_owned())
}

pub fn time_text(info: &CheckpointInfo) -> String {
    info.saved_at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// What everything that prints a checkpoint says of it.
pub fn info_json(info: &CheckpointInfo) -> Map<String, Value> {
    let object = json!({
        "step": info.step,
        "path": info.path.display().to_string(),
        "saved_at": info.saved_at.to_rfc3339(),
        "metrics": metrics_json(info.metrics.as_ref()),
        "bytes": info.bytes,
        "is_finite": info.is_finite,
        "is_pinned": info.is_pinned,
    });
    match object {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// `1.2 MB`.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}
