//! What a map applies to every record, with random numbers or without.

use std::ops::Range;
use std::sync::Arc;

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::Result;
use crate::data::dataset::Pass;
use crate::data::parallel_map::ParallelMap;
use crate::data::stages::Map;
use crate::data::{Dataset, Record};

/// Random numbers for one record: what [`Dataset::random_map`] gives to its closure. They follow from the seed of the run, the
/// pass, the stage and the number of the record, so that a resumed run, or another number of threads, draws the same. It is
/// also a generator for the crate `rand`, version 0.8.
#[derive(Debug, Clone)]
pub struct Random(ChaCha8Rng);

impl Random {
    fn new(seed: u64, number: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        Self(rng)
    }

    /// True with this probability; a flip of the image, `random.chance(0.5)`. Below 0, and NaN, is never; above 1 is always.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.r#gen::<f64>() < probability
    }

    /// A number from 0 to `count - 1`, all alike: where a crop begins. 0 where `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { self.0.gen_range(0..count) }
    }

    /// A number in this range, all alike: a brightness, an angle.
    pub fn uniform(&mut self, range: Range<f32>) -> f32 {
        range.start + (range.end - range.start) * self.0.r#gen::<f32>()
    }

    /// A number with mean 0 and deviation 1, normally distributed: noise.
    pub fn normal(&mut self) -> f32 {
        self.0.sample(StandardNormal)
    }
}

impl RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> std::result::Result<(), rand::Error> {
        self.0.try_fill_bytes(bytes)
    }
}

type Plain = dyn Fn(Record) -> Result<Record> + Send + Sync;
type WithRandom = dyn Fn(Record, &mut Random) -> Result<Record> + Send + Sync;

/// The closure of a map.
#[derive(Clone)]
pub(crate) enum MapFn {
    Plain(Arc<Plain>),
    Random(Arc<WithRandom>),
}

impl MapFn {
    /// How many random stages it counts as.
    pub(crate) fn depth(&self) -> u64 {
        u64::from(matches!(self, Self::Random(_)))
    }

    /// The name of the stage.
    pub(crate) fn name(&self, plain: &'static str, random: &'static str) -> &'static str {
        match self {
            Self::Plain(_) => plain,
            Self::Random(_) => random,
        }
    }

    /// The closure in the stage of this depth, to be called with records and their numbers.
    pub(crate) fn in_pass(&self, pass: Pass, depth: u64) -> impl Fn(Record, u64) -> Result<Record> + Clone + use<> {
        let (f, seed) = (self.clone(), pass.stage_seed(depth));
        move |record, number| match &f {
            Self::Plain(f) => f(record),
            Self::Random(f) => f(record, &mut Random::new(seed, number)),
        }
    }
}

impl Dataset {
    /// [`map`](Self::map) with random numbers: augmentation. Draw from what the closure is given, and from nothing else: then
    /// every pass draws anew, and a resumed run goes on exactly. Put it after `cache` and `shuffle`.
    ///
    /// ```
    /// use elistimator::data::{Dataset, Record};
    ///
    /// let numbers = Dataset::from_arrays(Record::new().with("x", vec![1f32, 2.0, 3.0]))?;
    /// let noisy = numbers.random_map(|mut example, random| {
    ///     let x = example.get("x")?.as_slice::<f32>()?[0];
    ///     example.insert("x", if random.chance(0.5) { -x } else { x } + 0.1 * random.normal());
    ///     Ok(example)
    /// });
    /// let pass = |epoch| noisy.open(7, epoch, 0)?.collect::<elistimator::Result<Vec<Record>>>();
    /// assert_eq!(pass(0)?, pass(0)?);
    /// assert_ne!(pass(0)?, pass(1)?);
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    #[must_use]
    pub fn random_map(self, f: impl Fn(Record, &mut Random) -> Result<Record> + Send + Sync + 'static) -> Self {
        Self::from_stage(Map { input: self.stage, f: MapFn::Random(Arc::new(f)) })
    }

    /// [`random_map`](Self::random_map) on so many threads, in the order and with the errors of
    /// [`parallel_map`](Self::parallel_map). The numbers do not depend on the threads.
    #[must_use]
    pub fn parallel_random_map(
        self,
        threads: usize,
        f: impl Fn(Record, &mut Random) -> Result<Record> + Send + Sync + 'static,
    ) -> Self {
        Self::from_stage(ParallelMap { input: self.stage, threads, f: MapFn::Random(Arc::new(f)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(data: &Dataset, seed: u64, epoch: u64, position: u64) -> Vec<i64> {
        let records = data.open(seed, epoch, position).unwrap();
        records.map(|record| record.unwrap().get("n").unwrap().as_slice::<i64>().unwrap()[0]).collect()
    }

    fn draw(_: Record, random: &mut Random) -> Result<Record> {
        Ok(Record::new().with("n", random.next_u64() as i64))
    }

    fn numbers(count: i64) -> Dataset {
        Dataset::from_arrays(Record::new().with("n", (0..count).collect::<Vec<i64>>())).unwrap()
    }

    #[test]
    fn draws_follow_from_seed_pass_and_number_alone() {
        let data = numbers(50).random_map(draw);
        let all = drawn(&data, 7, 3, 0);
        assert_eq!(drawn(&data, 7, 3, 0), all);
        assert_eq!(drawn(&data, 7, 3, 20), all[20..]);
        assert_eq!(drawn(&numbers(50).parallel_random_map(3, draw), 7, 3, 0), all);
        assert_eq!(drawn(&numbers(50).parallel_random_map(2, draw), 7, 3, 11), all[11..]);
        let others = [drawn(&data, 7, 4, 0), drawn(&data, 8, 3, 0), all.clone()];
        let different: std::collections::HashSet<_> = others.iter().flatten().collect();
        assert_eq!(different.len(), 150);
    }

    #[test]
    fn stages_and_repetitions_draw_differently() {
        let keep = |mut record: Record, random: &mut Random| {
            record.insert("first", random.next_u64() as i64);
            Ok(record)
        };
        let twice = numbers(20).random_map(keep).random_map(|mut record, random| {
            record.insert("n", random.next_u64() as i64);
            Ok(record)
        });
        for record in twice.open(7, 0, 0).unwrap() {
            let record = record.unwrap();
            assert_ne!(record.get("first").unwrap(), record.get("n").unwrap());
        }
        let repeated = drawn(&numbers(20).random_map(draw).repeat(2), 7, 0, 0);
        assert!(repeated[..20].iter().all(|n| !repeated[20..].contains(n)));
    }

    #[test]
    fn a_shuffle_behind_it_is_another_random_stage() {
        let (plain, random) = (numbers(9).map(Ok).shuffle(9), numbers(9).random_map(|record, _| Ok(record)).shuffle(9));
        assert_ne!(drawn(&plain, 7, 0, 0), drawn(&random, 7, 0, 0));
        assert_ne!(plain.fingerprint(), random.fingerprint());
    }

    #[test]
    fn numbers_are_distributed_as_promised() {
        let mut random = Random::new(7, 0);
        let normal: Vec<f32> = (0..20_000).map(|_| random.normal()).collect();
        let mean = normal.iter().sum::<f32>() / 20_000.0;
        let variance = normal.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let heads = (0..10_000).filter(|_| random.chance(0.3)).count();
        assert!((2_800..3_200).contains(&heads), "{heads}");
        assert!((0..1_000).all(|_| (-2.0..3.0).contains(&random.uniform(-2.0..3.0))));
        let mut seen = [false; 4];
        (0..200).for_each(|_| seen[random.below(4)] = true);
        assert_eq!((seen, random.below(0)), ([true; 4], 0));
        assert!((0..100).all(|_| !random.chance(f64::NAN) && !random.chance(0.0) && random.chance(1.0)));
    }

    #[test]
    fn errors_name_the_stage_and_the_element() {
        let data = numbers(3).random_map(|_, _| panic!("no luck"));
        let error = data.open(0, 0, 1).unwrap().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("random_map: element 1") && error.contains("no luck"), "{error}");
        let data = numbers(3).parallel_random_map(2, |_, _| panic!("no luck"));
        let error = data.open(0, 0, 1).unwrap().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("parallel_random_map: element 1"), "{error}");
    }
}
