//! The stages that are a few lines each.

use std::sync::Arc;

use crate::data::dataset::{Indices, Pass, Stage, Stream};
use crate::data::flat_map::skip_records;
use crate::data::random_map::MapFn;
use crate::data::{Array, Dtype, Padding, Record};
use crate::{Error, ErrorKind, Result, unwind};

/// Runs a closure of the user's on element `number` of a stage.
pub(crate) fn guard<T>(stage: &str, number: u64, f: impl FnOnce() -> Result<T>) -> Result<T> {
    match unwind::catch(f) {
        Ok(result) => result.map_err(|error| error.at(format_args!("{stage}: element {number}"))),
        Err(panic) => Err(Error::new(ErrorKind::Data, format!("{stage}: element {number}: panicked: {panic}"))),
    }
}

pub(crate) struct Batched {
    pub(crate) input: Arc<dyn Stage>,
}

impl Stage for Batched {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        self.input.open(pass, position)
    }

    fn len(&self) -> Option<u64> {
        self.input.len()
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn is_batched(&self) -> bool {
        true
    }

    fn describe(&self, out: &mut String) {
        out.push_str("batches");
    }
}

pub(crate) struct Map {
    pub(crate) input: Arc<dyn Stage>,
    pub(crate) f: MapFn,
}

impl Map {
    fn name(&self) -> &'static str {
        self.f.name("map", "random_map")
    }
}

impl Stage for Map {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        let (f, stage) = (self.f.in_pass(pass, self.depth()), self.name());
        let numbered = self.input.open(pass, position)?.zip(position..);
        Ok(Stream::new(numbered.map(move |(record, number)| {
            let record = record?;
            guard(stage, number, || f(record, number))
        })))
    }

    fn len(&self) -> Option<u64> {
        self.input.len()
    }

    fn depth(&self) -> u64 {
        self.input.depth() + self.f.depth()
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn without_remainders(&self) -> Option<Arc<dyn Stage>> {
        Some(Arc::new(Self { input: self.input.without_remainders()?, f: self.f.clone() }))
    }

    fn describe(&self, out: &mut String) {
        out.push_str(self.name());
    }
}

pub(crate) struct Cast {
    pub(crate) input: Arc<dyn Stage>,
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
}

impl Cast {
    fn apply(name: &str, dtype: Dtype, mut record: Record) -> Result<Record> {
        let array = record.get(name)?.cast(dtype).map_err(|error| error.at(format_args!("input {name:?}")))?;
        record.insert(name, array);
        Ok(record)
    }
}

impl Stage for Cast {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        let (name, dtype) = (self.name.clone(), self.dtype);
        let numbered = self.input.open(pass, position)?.zip(position..);
        Ok(Stream::new(numbered.map(move |(record, number)| {
            Self::apply(&name, dtype, record?).map_err(|error| error.at(format_args!("cast: element {number}")))
        })))
    }

    fn len(&self) -> Option<u64> {
        self.input.len()
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn indices(&self, pass: Pass, position: u64) -> Option<Indices> {
        self.input.indices(pass, position)
    }

    fn gather(&self, rows: &[usize]) -> Result<Record> {
        Self::apply(&self.name, self.dtype, self.input.gather(rows)?).map_err(|error| error.at("cast"))
    }

    fn without_remainders(&self) -> Option<Arc<dyn Stage>> {
        let input = self.input.without_remainders()?;
        Some(Arc::new(Self { input, name: self.name.clone(), dtype: self.dtype }))
    }

    fn describe(&self, out: &mut String) {
        out.push_str(&format!("cast({} {})", self.name, self.dtype));
    }
}

type KeepFn = dyn Fn(&Record) -> Result<bool> + Send + Sync;

pub(crate) struct Filter {
    pub(crate) input: Arc<dyn Stage>,
    pub(crate) keep: Arc<KeepFn>,
}

impl Stage for Filter {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        let keep = Arc::clone(&self.keep);
        // How many records the kept ones came from is not known, so they are counted from the beginning.
        let kept = self.input.open(pass, 0)?.zip(0..).filter_map(move |(record, number)| {
            let record = match record {
                Ok(record) => record,
                Err(error) => return Some(Err(error)),
            };
            match guard("filter", number, || keep(&record)) {
                Ok(true) => Some(Ok(record)),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            }
        });
        skip_records(kept, position)
    }

    fn len(&self) -> Option<u64> {
        None
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn describe(&self, out: &mut String) {
        out.push_str("filter");
    }
}

pub(crate) struct Batch {
    input: Arc<dyn Stage>,
    size: usize,
    padding: Option<Padding>,
}

impl Batch {
    pub(crate) fn new(input: Arc<dyn Stage>, size: usize) -> Self {
        Self { input, size, padding: None }
    }

    pub(crate) fn padded(input: Arc<dyn Stage>, size: usize, padding: Padding) -> Self {
        Self { input, size, padding: Some(padding) }
    }
}

impl Stage for Batch {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        if self.size == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "batch: the size is 0, expected at least 1"));
        }
        if self.input.is_batched() {
            let message = "batch: the records are batches already; batch once";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let (size, start) = (self.size, position.saturating_mul(self.size as u64));
        if let (None, Some(mut indices)) = (&self.padding, self.input.indices(pass, start)) {
            let input = Arc::clone(&self.input);
            let mut rows = Vec::new();
            let mut numbers = position..;
            return Ok(Stream::new(std::iter::from_fn(move || {
                rows.clear();
                rows.extend(indices.by_ref().take(size));
                let number = numbers.next().filter(|_| !rows.is_empty())?;
                Some(input.gather(&rows).map_err(|error| error.at(format_args!("batch: element {number}"))))
            })));
        }
        let mut records = self.input.open(pass, start)?.fuse();
        let padding = self.padding.clone();
        let stage = if padding.is_some() { "padded_batch" } else { "batch" };
        let mut number = position;
        Ok(Stream::new(std::iter::from_fn(move || {
            let examples: Result<Vec<Record>> = records.by_ref().take(size).collect();
            number += 1;
            match examples {
                Ok(examples) if examples.is_empty() => None,
                Ok(examples) => Some(
                    stack(&examples, padding.as_ref())
                        .map_err(|error| error.at(format_args!("{stage}: element {}", number - 1))),
                ),
                Err(error) => Some(Err(error)),
            }
        })))
    }

    fn len(&self) -> Option<u64> {
        Some(self.input.len()?.div_ceil(self.size.max(1) as u64))
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn padding(&self) -> Option<&Padding> {
        self.padding.as_ref()
    }

    fn is_batched(&self) -> bool {
        true
    }

    fn batch_size(&self) -> Option<u64> {
        Some(self.size as u64)
    }

    fn describe(&self, out: &mut String) {
        // The batch size is compared on its own.
        out.push_str(if self.padding.is_some() { "padded batch" } else { "batch" });
        if let Some(padding) = &self.padding {
            padding.describe(out);
        }
    }

    fn label(&self) -> String {
        format!("{}({})", if self.padding.is_some() { "padded_batch" } else { "batch" }, self.size)
    }
}

/// Stacks the arrays of each name.
pub(crate) fn stack(examples: &[Record], padding: Option<&Padding>) -> Result<Record> {
    let names: Vec<&str> = examples.first().map(|first| first.names().collect()).unwrap_or_default();
    for (index, example) in examples.iter().enumerate() {
        if !example.names().eq(names.iter().copied()) {
            let found: Vec<_> = example.names().collect();
            let message = format!("example {index} has the inputs {found:?}, the first one {names:?}");
            return Err(Error::new(ErrorKind::Data, message));
        }
    }
    if let Some(padding) = padding {
        padding.check(&names)?;
    }
    let mut batch = Record::new();
    for name in names {
        let arrays = examples.iter().map(|example| example.get(name).cloned()).collect::<Result<Vec<_>>>()?;
        let place = |error: Error| error.at(format_args!("input {name:?}"));
        match padding {
            Some(padding) => padding.apply(name, &arrays, &mut batch).map_err(place)?,
            None => batch.insert(name, Array::stack(&arrays).map_err(place)?),
        }
    }
    Ok(batch)
}

pub(crate) struct Take {
    pub(crate) input: Arc<dyn Stage>,
    pub(crate) count: u64,
}

impl Stage for Take {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        let left = usize::try_from(self.count.saturating_sub(position)).unwrap_or(usize::MAX);
        Ok(Stream::new(self.input.open(pass, position)?.take(left)))
    }

    fn len(&self) -> Option<u64> {
        self.input.len().map(|len| len.min(self.count)).or_else(|| self.input.is_endless().then_some(self.count))
    }

    fn is_endless(&self) -> bool {
        false
    }

    fn may_be_endless(&self) -> bool {
        false
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn indices(&self, pass: Pass, position: u64) -> Option<Indices> {
        let left = usize::try_from(self.count.saturating_sub(position)).unwrap_or(usize::MAX);
        Some(Box::new(self.input.indices(pass, position)?.take(left)))
    }

    fn gather(&self, rows: &[usize]) -> Result<Record> {
        self.input.gather(rows)
    }

    fn describe(&self, out: &mut String) {
        out.push_str(&format!("take({})", self.count));
    }
}

pub(crate) struct Skip {
    pub(crate) input: Arc<dyn Stage>,
    pub(crate) count: u64,
}

impl Stage for Skip {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        self.input.open(pass, position.saturating_add(self.count))
    }

    fn len(&self) -> Option<u64> {
        self.input.len().map(|len| len.saturating_sub(self.count))
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn indices(&self, pass: Pass, position: u64) -> Option<Indices> {
        self.input.indices(pass, position.saturating_add(self.count))
    }

    fn gather(&self, rows: &[usize]) -> Result<Record> {
        self.input.gather(rows)
    }

    fn describe(&self, out: &mut String) {
        out.push_str(&format!("skip({})", self.count));
    }
}

pub(crate) struct Repeat {
    pub(crate) input: Arc<dyn Stage>,
    pub(crate) times: Option<u64>,
}

impl Repeat {
    /// The pass in which repetition `round` of this pass is made: distinct for distinct pairs.
    fn round(pass: Pass, round: u64) -> Pass {
        Pass { seed: pass.stage_seed(u64::MAX - round), epoch: pass.epoch }
    }
}

impl Stage for Repeat {
    fn open(&self, pass: Pass, position: u64) -> Result<Stream> {
        let input = Arc::clone(&self.input);
        let times = self.times.unwrap_or(u64::MAX);
        let (mut round, within) = match input.len() {
            Some(0) => return Ok(Stream::new(std::iter::empty())),
            Some(len) => (position / len, position % len),
            None => (0, 0),
        };
        let mut skip = if input.len().is_some() { 0 } else { position };
        let mut stream = (round < times).then(|| input.open(Self::round(pass, round), within)).transpose()?;
        let mut seen = within > 0;
        Ok(Stream::new(std::iter::from_fn(move || {
            loop {
                match stream.as_mut()?.next() {
                    Some(record) => {
                        seen = true;
                        if skip > 0 && record.is_ok() {
                            skip -= 1;
                            continue;
                        }
                        return Some(record);
                    }
                    // A pass without any record would be repeated for ever.
                    None if !seen => return None,
                    None => {
                        (round, seen) = (round + 1, false);
                        if round >= times {
                            stream = None;
                            return None;
                        }
                        match input.open(Self::round(pass, round), 0) {
                            Ok(next) => stream = Some(next),
                            Err(error) => {
                                stream = None;
                                return Some(Err(error));
                            }
                        }
                    }
                }
            }
        })))
    }

    fn len(&self) -> Option<u64> {
        match (self.input.len(), self.times) {
            (Some(0), _) | (_, Some(0)) => Some(0),
            (Some(len), Some(times)) => len.checked_mul(times),
            _ => None,
        }
    }

    fn is_endless(&self) -> bool {
        match self.times {
            Some(times) => times > 0 && self.input.is_endless(),
            None => self.input.is_endless() || self.input.len().is_some_and(|len| len > 0),
        }
    }

    fn may_be_endless(&self) -> bool {
        match self.times {
            Some(times) => times > 0 && self.input.may_be_endless(),
            None => self.input.len() != Some(0),
        }
    }

    fn input(&self) -> Option<&Arc<dyn Stage>> {
        Some(&self.input)
    }

    fn describe(&self, out: &mut String) {
        out.push_str(&match self.times {
            Some(times) => format!("repeat({times})"),
            None => "repeat".into(),
        });
    }
}
