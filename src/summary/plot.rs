//! Pictures of a run without TensorBoard, as SVG files.

use super::History;
use super::history::CLASSES;
use crate::{Error, ErrorKind, Result};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::Path,
};

const WIDTH: u32 = 800;
const PANEL: u32 = 300;
/// More points than pixels show nothing more: longer curves are drawn as means of so many pieces.
const POINTS: usize = 600;
/// More panels make no picture.
const PANELS: usize = 40;
const MATRICES: usize = 10;
/// Dark enough for thin lines on white; the sources of a run are few.
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 98, 14),
    RGBColor(44, 140, 60),
    RGBColor(150, 90, 190),
    RGBColor(190, 40, 60),
    RGBColor(110, 110, 110),
];

/// Draws every metric over the steps into an SVG file: a panel for each name, the loss first, a curve for each source
/// (`train`, `validation`). Values that are not finite are left out. Below are the last confusion matrices, if there are any.
///
/// Fails with [`ErrorKind::NotFound`] if there is nothing to draw, [`ErrorKind::InvalidArgument`] for a name of another format,
/// such as `curves.png`, [`ErrorKind::Io`] if the file cannot be written.
pub fn curves(history: &History, path: impl AsRef<Path>) -> Result<()> {
    let mut panels: BTreeMap<String, Vec<Curve>> = BTreeMap::new();
    for full in history.names() {
        let points = history.series(&full);
        let (source, name) = full.split_once('/').unwrap_or(("", &full));
        let points = finite(&points);
        if !points.is_empty() {
            panels.entry(name.to_owned()).or_default().push(Curve { source: source.to_owned(), points });
        }
    }
    if panels.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "there is nothing to draw: the history holds no finite value"));
    }
    let mut panels: Vec<_> = panels.into_iter().collect();
    panels.sort_by_key(|(name, _)| name != "loss");
    panels.truncate(PANELS);
    // One colour for a source and one axis of steps, in all panels.
    let sources: BTreeSet<&String> = panels.iter().flat_map(|(_, curves)| curves).map(|curve| &curve.source).collect();
    let sources: Vec<&String> = sources.into_iter().collect();
    let steps = panels.iter().flat_map(|(_, curves)| curves).flat_map(|curve| &curve.points).map(|point| point.0);
    let steps = range(steps, 0.0);
    let height = PANEL * u32::try_from(panels.len()).unwrap_or(1);
    let matrices = matrices(history);
    let width = matrices.iter().map(|matrix| matrix.size).max().unwrap_or(0).max(WIDTH);
    let below: u32 = matrices.iter().map(|matrix| matrix.size).sum();
    save(path.as_ref(), (width, height + below), |area| {
        let (upper, mut lower) = area.split_vertically(height);
        for (area, (name, curves)) in upper.split_evenly((panels.len(), 1)).iter().zip(&panels) {
            panel(area, name, curves, steps.clone(), &sources)?;
        }
        for matrix in &matrices {
            let (area, rest) = lower.split_vertically(matrix.size);
            matrix.draw(&area)?;
            lower = rest;
        }
        Ok(())
    })
}

/// The last confusion matrix of each name.
fn matrices(history: &History) -> Vec<Matrix> {
    let named = |name: &String| {
        let (step, counts) = history.matrix(name)?;
        Matrix::numbered(&format!("{name}, step {step}"), counts)
    };
    history.matrices().iter().filter_map(named).take(MATRICES).collect()
}

/// Draws a confusion matrix into an SVG file: `counts` row by row, a row for each true class, a column for each predicted one.
/// The shade is the share of the row. Without `labels` the classes are numbered.
///
/// Fails with [`ErrorKind::InvalidArgument`] if the counts are not square, the labels not one for each class, or there are
/// more than 100 classes; with [`ErrorKind::Io`] if the file cannot be written.
pub fn confusion_matrix(counts: &[u64], labels: Option<&[String]>, path: impl AsRef<Path>) -> Result<()> {
    let classes = counts.len().isqrt();
    if classes * classes != counts.len() || !(1..=CLASSES).contains(&classes) {
        let message = format!("a confusion matrix of {} counts: not the square of 1 to 100 classes", counts.len());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let names: Vec<String> = match labels {
        Some(labels) if labels.len() == classes => {
            labels.iter().map(|label| label.chars().take(16).collect()).collect()
        }
        Some(labels) => {
            let message = format!("{} labels for {classes} classes", labels.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        None => (0..classes).map(|class| class.to_string()).collect(),
    };
    #[allow(clippy::cast_precision_loss)] // of counts above 2^53
    let matrix = Matrix::new("", counts.iter().map(|&count| count as f64).collect(), names);
    save(path.as_ref(), (matrix.size, matrix.size), |area| matrix.draw(area))
}

/// A confusion matrix to draw, of 1 to 100 classes.
struct Matrix {
    title: String,
    counts: Vec<f64>,
    names: Vec<String>,
    /// Pixels of a square, of the names beside it, and of the whole.
    side: i32,
    margin: i32,
    size: u32,
}

impl Matrix {
    fn new(title: &str, counts: Vec<f64>, names: Vec<String>) -> Self {
        // The numbers are small: at most 100 classes of at most 48 pixels.
        let side = if names.len() <= 20 { 48 } else { 20 };
        let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let top = if title.is_empty() { 40 } else { 64 };
        let margin = top + 8 * i32::try_from(longest).unwrap_or(0);
        let size = margin + i32::try_from(names.len()).unwrap_or(0) * side + 20;
        let size = u32::try_from(size).unwrap_or(WIDTH);
        Self { title: title.chars().take(60).collect(), counts, names, side, margin, size }
    }

    fn numbered(title: &str, counts: &[f64]) -> Option<Self> {
        let classes = counts.len().isqrt();
        let fits = (1..=CLASSES).contains(&classes) && classes * classes == counts.len();
        fits.then(|| Self::new(title, counts.to_vec(), (0..classes).map(|class| class.to_string()).collect()))
    }

    fn draw(&self, area: &Area<'_>) -> Drawing {
        let Self { counts, names, side, margin, .. } = self;
        let (classes, side, margin) = (names.len(), *side, *margin);
        let at = |index: usize| i32::try_from(index).unwrap_or(0) * side;
        let font = |size: i32, colour: RGBColor| ("sans-serif", size).into_font().color(&colour);
        let centre = Pos::new(HPos::Center, VPos::Center);
        let left = Pos::new(HPos::Left, VPos::Top);
        let top = if self.title.is_empty() { 12 } else { 36 };
        area.draw(&Text::new(self.title.as_str(), (12, 8), font(18, BLACK).pos(left)))?;
        let middle = margin + at(classes) / 2;
        area.draw(&Text::new("predicted", (middle, top), font(15, BLACK).pos(centre)))?;
        let turned = ("sans-serif", 15).into_font().transform(FontTransform::Rotate270).color(&BLACK);
        area.draw(&Text::new("true", (12, middle), turned.pos(centre)))?;
        for (class, name) in names.iter().enumerate() {
            let right = Pos::new(HPos::Right, VPos::Center);
            area.draw(&Text::new(
                name.as_str(),
                (margin - 6, margin + at(class) + side / 2),
                font(13, BLACK).pos(right),
            ))?;
            // Long names would run into each other, and stand upright.
            let upright = name.chars().count() > 4;
            let mut style = ("sans-serif", 13).into_font();
            if upright {
                style = style.transform(FontTransform::Rotate270);
            }
            let anchor =
                if upright { Pos::new(HPos::Left, VPos::Center) } else { Pos::new(HPos::Center, VPos::Bottom) };
            let place = (margin + at(class) + side / 2, margin - 6);
            area.draw(&Text::new(name.as_str(), place, style.color(&BLACK).pos(anchor)))?;
        }
        for (row, cells) in counts.chunks(classes).enumerate() {
            let total: f64 = cells.iter().sum();
            for (column, &count) in cells.iter().enumerate() {
                let share = if total > 0.0 { count / total } else { 0.0 };
                let (x, y) = (margin + at(column), margin + at(row));
                area.draw(&Rectangle::new([(x, y), (x + side, y + side)], shade(share).filled()))?;
                area.draw(&Rectangle::new([(x, y), (x + side, y + side)], RGBColor(225, 225, 225)))?;
                if side > 40 && count > 0.0 {
                    let colour = if share > 0.5 { WHITE } else { BLACK };
                    let place = (x + side / 2, y + side / 2);
                    area.draw(&Text::new(count_label(count), place, font(13, colour).pos(centre)))?;
                }
            }
        }
        Ok(())
    }
}

/// Whole counts as they are, of weighted ones three digits.
fn count_label(count: f64) -> String {
    if count.fract() == 0.0 && count < 1e6 { format!("{count}") } else { label((count * 1e3).round() / 1e3) }
}

/// Draws a learning-rate range test into an SVG file. The axis is that of the rates' logarithms, so that a rate may be as small
/// as an `f64` can be.
pub(crate) fn loss_by_learning_rate(points: &[(f64, f64)], steepest: Option<f64>, path: &Path) -> Result<()> {
    let is_drawn = |point: &&(f64, f64)| point.0 > 0.0 && point.0.is_finite() && point.1.abs() < 1e100;
    let points: Vec<(f64, f64)> = points.iter().filter(is_drawn).map(|point| (point.0.log10(), point.1)).collect();
    if points.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "there is nothing to draw: the range test has no finite loss"));
    }
    let rates = range(points.iter().map(|point| point.0), 0.0);
    let losses = range(points.iter().map(|point| point.1), 0.05);
    save(path, (WIDTH, PANEL), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(30)
            .y_label_area_size(64)
            .build_cartesian_2d(rates, losses.clone())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_labels(8)
            .y_labels(6)
            .x_label_formatter(&|rate| format!("{:.1e}", 10f64.powf(*rate)))
            .y_label_formatter(&|value| label(*value))
            .x_desc("learning rate")
            .y_desc("loss")
            .draw()?;
        let style = COLOURS[0].stroke_width(2);
        match points.as_slice() {
            [point] => chart.draw_series([Circle::new(*point, 3, COLOURS[0].filled())])?,
            points => chart.draw_series(LineSeries::new(points.iter().copied(), style))?,
        };
        if let Some(rate) = steepest.filter(|rate| *rate > 0.0) {
            let style = COLOURS[1].stroke_width(1);
            let line = [(rate.log10(), losses.start), (rate.log10(), losses.end)];
            chart
                .draw_series([PathElement::new(line, style)])?
                .label(format!("steepest: {rate:.1e}"))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.2)).draw()?;
        }
        Ok(())
    })
}

struct Curve {
    source: String,
    points: Vec<(f64, f64)>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawing = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn panel(area: &Area<'_>, name: &str, curves: &[Curve], steps: Range<f64>, sources: &[&String]) -> Drawing {
    let values = range(curves.iter().flat_map(|curve| &curve.points).map(|point| point.1), 0.05);
    let title: String = name.chars().take(60).collect();
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(64)
        .build_cartesian_2d(steps, values)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(8)
        .y_labels(6)
        .x_label_formatter(&|step| format!("{step}"))
        .y_label_formatter(&|value| label(*value))
        .x_desc("step")
        .draw()?;
    for curve in curves {
        let source = sources.iter().position(|source| **source == curve.source).unwrap_or(0);
        let colour = COLOURS[source % COLOURS.len()];
        let style = colour.stroke_width(2);
        let drawn = match curve.points.as_slice() {
            // A line through one point is nothing to see.
            [point] => chart.draw_series([Circle::new(*point, 3, colour.filled())])?,
            points => chart.draw_series(LineSeries::new(points.iter().copied(), style))?,
        };
        drawn.label(&curve.source).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.2)).draw()?;
    Ok(())
}

/// The finite points, as means of pieces where they are too many.
fn finite(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    // Coordinates near the limits of an f64 have no differences to draw.
    let points: Vec<(f64, f64)> =
        points.iter().filter(|point| point.1.abs() < 1e100).map(|point| (point.0 as f64, point.1)).collect();
    let piece = points.len().div_ceil(POINTS).max(1);
    let mean = |piece: &[(f64, f64)]| {
        let count = piece.len() as f64;
        let sum = piece.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / count, sum.1 / count)
    };
    points.chunks(piece).map(mean).collect()
}

/// From the smallest to the largest, with a margin, and never empty.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let width = high - low;
    // Less than the axis can tell apart.
    if width <= 1e-9 * low.abs().max(high.abs()) || width < 1e-300 {
        let half = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
        return low - half..high + half;
    }
    low - margin * width..high + margin * width
}

fn label(value: f64) -> String {
    if value == 0.0 || (1e-3..1e6).contains(&value.abs()) {
        let text = format!("{value:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.2e}")
    }
}

fn shade(share: f64) -> RGBColor {
    let [red, green, blue] = super::figure::shade(share);
    RGBColor(red, green, blue)
}

/// Refuses a name that promises something else than SVG: programs that go by the name would not open the file.
fn check_name(path: &Path) -> Result<()> {
    const OTHERS: [&str; 9] = ["png", "jpg", "jpeg", "gif", "webp", "bmp", "tiff", "pdf", "eps"];
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if !OTHERS.contains(&extension.as_str()) && path.as_os_str() != "-" {
        return Ok(());
    }
    let message = format!("cannot draw {}: pictures are SVG files, expected a name such as curves.svg", path.display());
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

fn save(path: &Path, size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Drawing) -> Result<()> {
    check_name(path)?;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let drawn = area.fill(&WHITE).map_err(Into::into).and_then(|()| draw(&area));
        drawn.and_then(|()| area.present().map_err(Into::into)).map_err(|error| {
            Error::with_source(ErrorKind::InvalidArgument, format!("cannot draw {}", path.display()), error)
        })?;
    }
    fs::write(path, svg).map_err(|error| Error::io("write", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Record;

    fn history(values: &[(&str, u64, &str, f64)]) -> History {
        let record = |&(source, step, name, value): &(&str, u64, &str, f64)| Record {
            step,
            time: 0.0,
            source: source.to_owned(),
            values: [(name.to_owned(), value)].into(),
            matrices: BTreeMap::new(),
        };
        History::from_records(values.iter().map(record).collect())
    }

    #[test]
    fn every_metric_has_a_panel_and_every_source_a_curve() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curves.svg");
        let mut values = Vec::new();
        for step in 0..5000 {
            values.push(("train", step, "loss", 1.0 / (step as f64 + 1.0)));
            if step % 1000 == 999 {
                values.push(("validation", step, "loss", 0.2));
                values.push(("validation", step, "accuracy", 0.9));
            }
        }
        curves(&history(&values), &path).unwrap();
        let svg = fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["loss", "accuracy", "train", "validation"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.len() < 60_000, "{}", svg.len());
    }

    #[test]
    fn hostile_values_are_drawn_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curves.svg");
        assert_eq!(curves(&History::default(), &path).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(curves(&history(&[("train", 0, "loss", f64::NAN)]), &path).is_err());
        for values in [
            vec![("train", 0, "loss", 1.0)],
            vec![("train", u64::MAX, "<loss>&", 0.0), ("train", u64::MAX - 1, "loss", 0.0)],
            vec![("train", 0, "loss", 1e99), ("train", 1, "loss", -1e99), ("train", 2, "loss", f64::MAX)],
            vec![("train", 0, "loss", 5e-324), ("train", 1, "loss", 0.0)],
            vec![("train", 0, "loss", 1.0), ("train", u64::MAX, "loss", 1.0 + f64::EPSILON)],
            vec![("train", 0, "loss", 1e16), ("train", 1, "loss", 1e16 + 2.0)],
        ] {
            curves(&history(&values), &path).unwrap();
        }
        let missing = dir.path().join("missing/curves.svg");
        assert_eq!(curves(&history(&[("train", 0, "loss", 1.0)]), missing).unwrap_err().kind(), ErrorKind::Io);
    }

    #[test]
    fn confusion_matrices() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("matrix.svg");
        let labels = ["cat".to_owned(), "<dog>".to_owned(), String::new()];
        confusion_matrix(&[871, 12, 3, 0, 0, 0, u64::MAX, u64::MAX, 1], Some(&labels), &path).unwrap();
        let svg = fs::read_to_string(&path).unwrap();
        assert!(svg.contains("871") && svg.contains("&lt;dog&gt;") && !svg.contains("<dog>"));
        confusion_matrix(&vec![1; 10_000], None, &path).unwrap();
        for bad in [vec![], vec![1; 2], vec![1; 101 * 101]] {
            assert_eq!(confusion_matrix(&bad, None, &path).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        assert!(confusion_matrix(&[1; 4], Some(&labels), &path).is_err());
    }

    #[test]
    fn the_last_matrices_stand_below_the_curves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curves.svg");
        let with = |step: u64, matrices: &[(&str, Vec<f64>)]| Record {
            step,
            time: 0.0,
            source: "validation".to_owned(),
            values: [("loss".to_owned(), 1.0)].into(),
            matrices: matrices.iter().map(|(name, counts)| ((*name).to_owned(), counts.clone())).collect(),
        };
        let records = vec![
            with(100, &[("confusion", vec![771.0, 0.0, 0.0, 772.0])]),
            with(200, &[("confusion", vec![871.5, 0.0, 0.0, 872.0]), ("empty", vec![]), ("zero", vec![0.0; 4])]),
            with(300, &[("<huge>", vec![1e300, f64::MAX, f64::MAX, 0.0]), ("wide", vec![1.0; 101 * 101])]),
        ];
        curves(&History::from_records(records), &path).unwrap();
        let svg = fs::read_to_string(&path).unwrap();
        for text in ["validation/confusion, step 200", "871.5", "872", "&lt;huge&gt;", "predicted", "true"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("771") && !svg.contains("wide"), "only the last of each name, and none that is too wide");
    }

    /// Writes pictures to look at: `GALLERY=dir cargo test --features plot --lib plot -- --ignored`.
    #[test]
    #[ignore = "writes pictures to look at into the directory GALLERY"]
    fn gallery() {
        let dir = std::path::PathBuf::from(std::env::var_os("GALLERY").unwrap());
        let mut values = Vec::new();
        for step in 1..=5360u64 {
            let noise = (step.wrapping_mul(6_364_136_223_846_793_005) >> 40) as f64 / f64::from(1 << 24) - 0.5;
            values.push(("train", step, "loss", 2.2 * (-(step as f64) / 700.0).exp() + 0.08 + 0.06 * noise));
        }
        for (epoch, (loss, accuracy)) in
            [(0.0998, 0.9682), (0.0704, 0.9779), (0.0574, 0.9812), (0.0523, 0.9832), (0.0478, 0.9839)]
                .into_iter()
                .enumerate()
        {
            let step = 1072 * (epoch as u64 + 1);
            values.extend([("validation", step, "loss", loss), ("validation", step, "accuracy", accuracy)]);
        }
        curves(&history(&values), dir.join("curves.svg")).unwrap();
        let counts: Vec<u64> = (0..100)
            .map(|i| {
                if i / 10 == i % 10 {
                    950 + i
                } else if i % 7 == 3 {
                    i % 13
                } else {
                    0
                }
            })
            .collect();
        confusion_matrix(&counts, None, dir.join("confusion_matrix.svg")).unwrap();
    }
}
