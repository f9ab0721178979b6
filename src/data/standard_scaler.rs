//! Columns with mean 0 and deviation 1.

use serde::{Deserialize, Serialize};

use crate::data::{Array, Dataset, Dtype, Record};
use crate::{Error, ErrorKind, Result};

/// Subtracts from every column its mean and divides by its standard deviation, as scikit-learn's `StandardScaler` does: for
/// tables whose columns are of different units. It is fitted on the training data alone, can be a field of the
/// hyper-parameters, so that it is saved with them, and is applied in [`preprocess`](crate::ModelFn::preprocess), so that
/// requests get the same treatment.
///
/// The deviation is that of the population, the root of the mean of the squares; columns that are constant are only moved to
/// 0. Missing values (NaN) do not count and stay missing.
///
/// ```
/// use elistimator::data::{Record, StandardScaler};
///
/// let table = Record::new().with("age", vec![20f32, 40.0, f32::NAN]).with("size", [[1f32, 5.0], [3.0, 5.0], [5.0, 5.0]]);
/// let scaler = StandardScaler::fit(&table, &["age", "size"])?;
/// assert_eq!(scaler.means("age"), Some(&[30.0][..]));
/// let request = scaler.transform(Record::new().with("age", vec![50f32]))?;
/// assert_eq!(request.get("age")?, &vec![2f32].into());
/// assert_eq!(scaler.inverse_transform("age", &vec![2f32].into())?, vec![50f32].into());
/// # Ok::<(), elistimator::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StandardScaler {
    arrays: Vec<Scale>,
}

/// Of one array: a single column, or a matrix with one along its last axis for each mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Scale {
    name: String,
    is_matrix: bool,
    means: Vec<f64>,
    deviations: Vec<f64>,
}

/// Count, mean and sum of squared distances to it of the values so far (Welford 1962).
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let distance = value - self.mean;
        self.mean += distance / self.count;
        self.squares += distance * (value - self.mean);
    }

    /// 1 where the values differ by no more than rounding does; the bound is scikit-learn's, Chan, Golub and LeVeque 1983.
    fn deviation(self) -> f64 {
        let variance = self.squares / self.count;
        let rounding = self.count * f64::EPSILON;
        if variance <= rounding * variance + (rounding * self.mean).powi(2) { 1.0 } else { variance.sqrt() }
    }
}

/// The columns of one array while it is fitted.
struct Fitting<'n> {
    name: &'n str,
    is_matrix: bool,
    columns: Vec<Moments>,
}

impl<'n> Fitting<'n> {
    /// With the shape of the first array; `axes` of it are there before the columns.
    fn new(name: &'n str, array: &Array, axes: usize) -> Result<Self> {
        let width = match array.dims().get(axes..) {
            Some([]) => None,
            Some(&[width]) => Some(width),
            _ => {
                let expected = if axes == 0 { "[] or [columns]" } else { "[rows] or [rows, columns]" };
                return Err(wrong(name, array, &format!("numbers of shape {expected}")));
            }
        };
        Ok(Self { name, is_matrix: width.is_some(), columns: vec![Moments::default(); width.unwrap_or(1)] })
    }

    fn add(&mut self, array: &Array, axes: usize) -> Result<()> {
        let expected: &[usize] = if self.is_matrix { &[self.columns.len()] } else { &[] };
        if array.dims().get(axes..) != Some(expected) {
            return Err(wrong(self.name, array, &format!("examples of shape {expected:?} as before")));
        }
        let values = numbers(self.name, array)?;
        for row in values.chunks(self.columns.len().max(1)) {
            for (column, value) in self.columns.iter_mut().zip(row).filter(|(_, value)| !value.is_nan()) {
                if value.is_infinite() {
                    let message = format!("array {:?}: found {value}, expected numbers that are finite", self.name);
                    return Err(Error::new(ErrorKind::Data, message));
                }
                column.add(*value);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Scale> {
        if let Some(empty) = self.columns.iter().position(|column| column.count == 0.0) {
            let message = format!("array {:?}: column {empty} has no number to be fitted on", self.name);
            return Err(Error::new(ErrorKind::Data, message));
        }
        Ok(Scale {
            name: self.name.to_owned(),
            is_matrix: self.is_matrix,
            means: self.columns.iter().map(|column| column.mean).collect(),
            deviations: self.columns.iter().map(|column| column.deviation()).collect(),
        })
    }
}

impl StandardScaler {
    /// Means and deviations of these arrays of numbers: columns of shape `[rows]`, as a table has them, or matrices
    /// `[rows, columns]`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] listing the names that there are; [`ErrorKind::Signature`] for text and other ranks;
    /// [`ErrorKind::Data`] when a column has no number, or an infinite one; [`ErrorKind::InvalidArgument`] when a name is given
    /// twice.
    pub fn fit(table: &Record, names: &[impl AsRef<str>]) -> Result<Self> {
        let fit = |name: &str| {
            let array = table.get(name)?;
            let mut fitting = Fitting::new(name, array, 1)?;
            fitting.add(array, 1)?;
            fitting.finish()
        };
        let arrays: Result<_> = differ(names).and_then(|()| names.iter().map(|name| fit(name.as_ref())).collect());
        Ok(Self { arrays: arrays.map_err(|error| error.at("StandardScaler::fit"))? })
    }

    /// The same of a data set, in one pass: of batches, or of examples that are numbers or `[columns]`.
    ///
    /// # Errors
    /// Those of [`fit`](Self::fit) and of the data; [`ErrorKind::InvalidArgument`] for data that repeats for ever.
    pub fn fit_dataset(dataset: &Dataset, names: &[impl AsRef<str>]) -> Result<Self> {
        let place = |error: Error| error.at("StandardScaler::fit_dataset");
        if dataset.stage.may_be_endless() {
            let message = "the data has no end: `take` so many records, or leave out `repeat_forever`";
            return Err(place(Error::new(ErrorKind::InvalidArgument, message)));
        }
        differ(names).map_err(place)?;
        let axes = usize::from(dataset.is_batched());
        let mut fittings: Vec<Fitting<'_>> = Vec::new();
        for record in dataset.open(0, 0, 0)? {
            let record = record?;
            for (index, name) in names.iter().map(AsRef::as_ref).enumerate() {
                let array = record.get(name).map_err(place)?;
                if fittings.len() == index {
                    fittings.push(Fitting::new(name, array, axes).map_err(place)?);
                }
                fittings[index].add(array, axes).map_err(place)?;
            }
        }
        if fittings.len() != names.len() {
            return Err(place(Error::new(ErrorKind::Data, "the data gave no record, expected at least one")));
        }
        Ok(Self { arrays: fittings.into_iter().map(Fitting::finish).collect::<Result<_>>().map_err(place)? })
    }

    /// The record with its fitted arrays as f32 in units of the deviation, in their shapes: a table, a batch or an example.
    /// Fitted arrays that it has not, the target in a request, are left out; all others stay as they are.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] naming an array of text or with another number of columns.
    pub fn transform(&self, mut record: Record) -> Result<Record> {
        for scale in &self.arrays {
            if record.contains(&scale.name) {
                let array = scale.map(record.get(&scale.name)?, |x, mean, deviation| (x - mean) / deviation)?;
                record.insert(&*scale.name, array);
            }
        }
        Ok(record)
    }

    /// Values of the fitted array `name` back in their own units: the predictions of a target that was scaled.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] listing the names that were fitted; those of [`transform`](Self::transform).
    pub fn inverse_transform(&self, name: &str, array: &Array) -> Result<Array> {
        let scale = self.scale(name).ok_or_else(|| {
            let known: Vec<_> = self.arrays.iter().map(|scale| &scale.name).collect();
            Error::new(ErrorKind::NotFound, format!("no array {name:?} was fitted; known are {known:?}"))
        })?;
        scale.map(array, |x, mean, deviation| x * deviation + mean)
    }

    /// The means of a fitted array, one for each column.
    pub fn means(&self, name: &str) -> Option<&[f64]> {
        self.scale(name).map(|scale| &*scale.means)
    }

    /// What a fitted array is divided by, one number for each column: the standard deviation, 1 for a constant.
    pub fn deviations(&self, name: &str) -> Option<&[f64]> {
        self.scale(name).map(|scale| &*scale.deviations)
    }

    fn scale(&self, name: &str) -> Option<&Scale> {
        self.arrays.iter().find(|scale| scale.name == name)
    }
}

impl Scale {
    fn map(&self, array: &Array, f: impl Fn(f64, f64, f64) -> f64) -> Result<Array> {
        let width = self.means.len();
        if self.deviations.len() != width || !self.is_matrix && width != 1 {
            let (name, deviations) = (&self.name, self.deviations.len());
            let message = format!(
                "array {name:?}: found {width} means and {deviations} deviations, expected one of each a column"
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        if self.is_matrix && array.dims().last() != Some(&width) {
            return Err(wrong(&self.name, array, &format!("numbers with {width} columns as they were fitted")));
        }
        let columns = self.means.iter().zip(&self.deviations).cycle();
        let scaled = numbers(&self.name, array)?.into_iter().zip(columns);
        let values: Vec<f32> = scaled.map(|(x, (&mean, &deviation))| f(x, mean, deviation) as f32).collect();
        Array::new(array.dims(), values)
    }
}

/// An array with two scales would be scaled twice.
fn differ(names: &[impl AsRef<str>]) -> Result<()> {
    for (index, name) in names.iter().map(AsRef::as_ref).enumerate() {
        if names[..index].iter().any(|other| other.as_ref() == name) {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("array {name:?} is named twice")));
        }
    }
    Ok(())
}

fn numbers(name: &str, array: &Array) -> Result<Vec<f64>> {
    if array.dtype() == Dtype::Text {
        return Err(wrong(name, array, "numbers"));
    }
    Ok(array.cast(Dtype::F64)?.as_slice::<f64>()?.to_vec())
}

fn wrong(name: &str, array: &Array, expected: &str) -> Error {
    let message = format!("array {name:?}: found {} of shape {:?}, expected {expected}", array.dtype(), array.dims());
    Error::new(ErrorKind::Signature, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(array: &Array) -> Vec<f32> {
        array.as_slice::<f32>().unwrap().to_vec()
    }

    #[test]
    fn every_column_gets_mean_0_and_the_deviation_of_the_population_1() {
        let table = Record::new()
            .with("m", [[1f32, 10.0], [2.0, 10.0], [4.0, f32::NAN], [9.0, 10.0]])
            .with("age", vec![3i64, 5, 5, 7])
            .with("other", vec!["a", "b", "c", "d"]);
        let scaler = StandardScaler::fit(&table, &["m", "age"]).unwrap();
        // (1 + 2 + 4 + 9) / 4 = 4; squares of distances 9 + 4 + 0 + 25 = 38.
        let deviation = (38f64 / 4.0).sqrt();
        assert_eq!(scaler.means("m").unwrap(), [4.0, 10.0]);
        let found = scaler.deviations("m").unwrap();
        assert!((found[0] - deviation).abs() < 1e-12 && found[1] == 1.0, "{found:?}");
        assert!((scaler.deviations("age").unwrap()[0] - 2f64.sqrt()).abs() < 1e-12);
        let scaled = scaler.transform(table.clone()).unwrap();
        let m = values(scaled.get("m").unwrap());
        for (row, x) in [1.0, 2.0, 4.0, 9.0].into_iter().enumerate() {
            assert!((f64::from(m[2 * row]) - (x - 4.0) / deviation).abs() < 1e-6, "{m:?}");
        }
        assert!(m[1] == 0.0 && m[3] == 0.0 && m[5].is_nan() && m[7] == 0.0, "{m:?}");
        assert_eq!(scaled.get("m").unwrap().dims(), [4, 2]);
        assert_eq!(scaled.get("other").unwrap(), table.get("other").unwrap());
        let back = scaler.inverse_transform("age", scaled.get("age").unwrap()).unwrap();
        assert!(values(&back).iter().zip([3f32, 5.0, 5.0, 7.0]).all(|(x, y)| (x - y).abs() < 1e-5), "{back:?}");
        // A prediction has an axis more than the column.
        assert_eq!(scaler.inverse_transform("age", &[[0f32], [0.0]].into()).unwrap(), [[5f32], [5.0]].into());
    }

    #[test]
    fn a_constant_is_only_moved_also_where_its_mean_is_rounded() {
        let table = Record::new().with("c", vec![0.1f64; 1000]).with("large", vec![1e15f64 + 1.0, 1e15]);
        let scaler = StandardScaler::fit(&table, &["c", "large"]).unwrap();
        assert_eq!(scaler.deviations("c").unwrap(), [1.0]);
        assert_eq!(scaler.deviations("large").unwrap(), [0.5]);
        let scaled = values(scaler.transform(table).unwrap().get("c").unwrap());
        assert!(scaled.iter().all(|x| x.abs() < 1e-6));
    }

    #[test]
    fn a_data_set_is_fitted_as_its_table_is() {
        let m: Vec<f32> = (0..60).map(|i| ((i * 37 % 101) as f32).sqrt()).collect();
        let table = Record::new()
            .with("m", Array::new([20, 3], m).unwrap())
            .with("x", (0..20).map(|i| f64::from(i) * 0.3).collect::<Vec<_>>());
        let whole = StandardScaler::fit(&table, &["x", "m"]).unwrap();
        let dataset = Dataset::from_arrays(table.clone()).unwrap();
        assert_eq!(StandardScaler::fit_dataset(&dataset, &["x", "m"]).unwrap(), whole);
        assert_eq!(StandardScaler::fit_dataset(&dataset.batch(7), &["x", "m"]).unwrap(), whole);
        // One example has the rows' values.
        let example = Record::new().with("m", table.get("m").unwrap().row(4).unwrap()).with("x", 1.2f64);
        let (one, all) = (whole.transform(example).unwrap(), whole.transform(table).unwrap());
        assert_eq!(one.get("m").unwrap(), &all.get("m").unwrap().row(4).unwrap());
        assert_eq!(one.get("x").unwrap(), &all.get("x").unwrap().row(4).unwrap());
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(serde_json::from_str::<StandardScaler>(&text).unwrap(), whole);
    }

    #[test]
    fn what_cannot_be_fitted_or_scaled_is_named() {
        let table = Record::new()
            .with("m", [[1f32, f32::NAN], [2.0, f32::NAN]])
            .with("inf", vec![1f32, f32::INFINITY])
            .with("word", vec!["a", "b"])
            .with("one", 1f32)
            .with("x", vec![1f32, 2.0]);
        let error = |name: &str| StandardScaler::fit(&table, &[name]).unwrap_err().to_string();
        assert!(error("m").contains("array \"m\": column 1 has no number"), "{}", error("m"));
        assert!(error("inf").contains("array \"inf\": found inf"), "{}", error("inf"));
        assert!(error("word").contains("array \"word\": found text of shape [2], expected numbers"));
        assert!(error("one").contains("found f32 of shape [], expected numbers of shape [rows]"), "{}", error("one"));
        assert!(error("y").contains("known are"));
        let dataset = Dataset::from_arrays(Record::new().with("x", vec![1f32, 2.0])).unwrap();
        let kind = |dataset: Dataset| StandardScaler::fit_dataset(&dataset, &["x"]).unwrap_err().kind();
        assert_eq!(kind(dataset.clone().repeat_forever()), ErrorKind::InvalidArgument);
        assert_eq!(kind(dataset.clone().take(0)), ErrorKind::Data);
        assert_eq!(kind(dataset.map(|_| Ok(Record::new()))), ErrorKind::NotFound);
        let scaler = StandardScaler::fit(&Record::new().with("m", [[1f32, 2.0]]), &["m"]).unwrap();
        let error = scaler.transform(Record::new().with("m", [[1f32, 2.0, 3.0]])).unwrap_err().to_string();
        assert!(error.contains("\"m\": found f32 of shape [1, 3], expected numbers with 2 columns"), "{error}");
        assert!(scaler.inverse_transform("n", &1f32.into()).unwrap_err().to_string().contains("known are [\"m\"]"));
    }
}
