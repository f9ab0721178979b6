//! Columns scaled as scikit-learn does it; `tests/data/standard_scaler.py` wrote the values.
#![allow(missing_docs, clippy::unwrap_used)]

use elistimator::data::{Array, Record, StandardScaler};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    table: Vec<Vec<Option<f64>>>,
    means: Vec<f64>,
    deviations: Vec<f64>,
    scaled: Vec<Vec<Option<f64>>>,
}

fn flat(rows: &[Vec<Option<f64>>]) -> Vec<f64> {
    rows.iter().flatten().map(|value| value.unwrap_or(f64::NAN)).collect()
}

#[test]
fn columns_are_those_of_scikit_learn() {
    let file: File = serde_json::from_str(include_str!("data/standard_scaler.json")).unwrap();
    let dims = [file.table.len(), file.means.len()];
    assert_eq!(dims, [40, 7]);
    let table = Record::new().with("columns", Array::new(dims, flat(&file.table)).unwrap());
    let scaler = StandardScaler::fit(&table, &["columns"]).unwrap();
    let pairs = |found: &[f64], expected: &[f64], tolerance: f64| {
        assert_eq!(found.len(), expected.len());
        for (column, (found, expected)) in found.iter().zip(expected).enumerate() {
            let is_near = (found - expected).abs() <= tolerance * expected.abs().max(1e-9);
            assert!(is_near || found.is_nan() && expected.is_nan(), "{column}: {found} {expected}");
        }
    };
    pairs(scaler.means("columns").unwrap(), &file.means, 1e-9);
    pairs(scaler.deviations("columns").unwrap(), &file.deviations, 1e-9);
    let scaled = scaler.transform(table).unwrap();
    let scaled: Vec<f64> =
        scaled.get("columns").unwrap().as_slice::<f32>().unwrap().iter().map(|value| f64::from(*value)).collect();
    // Those of a column that is constant but for rounding are 0 but for rounding.
    let is_constant = |index: usize| file.deviations[index % 7] == 1.0;
    for (index, (found, expected)) in scaled.iter().zip(flat(&file.scaled)).enumerate() {
        let is_near = (found - expected).abs() <= 1e-6 * expected.abs() + if is_constant(index) { 1e-9 } else { 1e-7 };
        assert!(is_near || found.is_nan() && expected.is_nan(), "{index}: {found} {expected}");
    }
}
