//! What a run looks like from outside: how fast it is, what it waits for, how much memory it takes.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

/// The names of the gauges that tell of the machine and not of the model: two runs of one seed differ in them.
pub(crate) const MACHINE: [&str; 5] = ["steps_per_second", "examples_per_second", "data_wait", "memory", "gpu_memory"];

/// Bytes in a MiB.
const MEBIBYTE: f64 = (1 << 20) as f64;

/// The memory changes slowly, and asking for it costs more than the rest.
const MEMORY_EVERY: Duration = Duration::from_secs(1);

/// Counts what happens between two logged steps, on the host alone.
#[derive(Debug)]
pub(crate) struct Gauges {
    since: Instant,
    steps: u64,
    examples: u64,
    waited: Duration,
    /// When it was last asked for the memory, and what of the host's and the device's was found.
    memory: Option<(Instant, [Option<f64>; 2])>,
}

impl Gauges {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), steps: 0, examples: 0, waited: Duration::ZERO, memory: None }
    }

    /// Begins anew: the time between two verbs is nobody's speed.
    pub(crate) fn restart(&mut self) {
        (self.since, self.steps, self.examples, self.waited) = (Instant::now(), 0, 0, Duration::ZERO);
    }

    /// Counts the time of something that fetches data.
    pub(crate) fn waiting<T>(&mut self, fetch: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let fetched = fetch();
        self.waited += begun.elapsed();
        fetched
    }

    /// Counts a step.
    pub(crate) fn step(&mut self, examples: u64) {
        self.steps += 1;
        self.examples += examples;
    }

    /// The gauges since they were read last: steps and examples per second, the share of the time that went into waiting for
    /// data, and the resident memory of the process and what it holds of the device's (`device_memory`, in bytes), in MiB where the
    /// system tells.
    pub(crate) fn read(&mut self, device_memory: impl FnOnce() -> Option<u64>) -> Vec<(&'static str, f64)> {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        let share = (self.waited.as_secs_f64() / seconds).min(1.0);
        let values = [self.steps as f64 / seconds, self.examples as f64 / seconds, share];
        self.restart();
        if self.memory.is_none_or(|(asked, _)| asked.elapsed() >= MEMORY_EVERY) {
            let held = device_memory().map(|bytes| bytes as f64 / MEBIBYTE);
            self.memory = Some((Instant::now(), [resident(), held]));
        }
        let memory = self.memory.map_or([None, None], |(_, memory)| memory);
        let values = values.into_iter().map(Some).chain(memory);
        MACHINE.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// The resident memory of this process in MiB. From `status` and not `statm`, which counts in pages of a size that it does not
/// say.
fn resident() -> Option<f64> {
    let mut text = String::new();
    File::open("/proc/self/status").ok()?.take(1 << 16).read_to_string(&mut text).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_shares_are_those_since_the_last_reading() {
        let begin = Instant::now();
        let mut gauges = Gauges::new();
        gauges.step(8);
        gauges.step(4);
        assert_eq!(gauges.waiting(|| std::thread::sleep(Duration::from_millis(40))), ());
        std::thread::sleep(Duration::from_millis(20));
        let values = gauges.read(|| Some(3 << 20));
        let whole = begin.elapsed().as_secs_f64();
        let of = |name: &str| values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let (steps, examples) = (of("steps_per_second").unwrap(), of("examples_per_second").unwrap());
        assert!(steps > 0.0 && steps <= 2.0 / 0.06, "{steps}");
        assert!((examples - 6.0 * steps).abs() < 1e-6 * examples);
        let wait = of("data_wait").unwrap();
        assert!(wait >= 0.04 / whole && wait < 1.0, "{wait} {whole}");
        assert_eq!(of("gpu_memory"), Some(3.0));
        gauges.step(1);
        std::thread::sleep(Duration::from_millis(5));
        let later = gauges.read(|| None);
        assert!(later[2].1 < 0.01 && later[0].1 <= 200.0, "{later:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_grows_with_what_is_held() {
        // Other tests of this process free memory meanwhile, and what was freed before may be used again, so that one reading
        // proves nothing: one that does not grow while more and more is held would.
        let mut held = Vec::new();
        let grown = (0..20).any(|_| {
            let before = resident().unwrap();
            held.push(std::hint::black_box(vec![1u8; 64 << 20]));
            let after = resident().unwrap();
            assert!(after < 1e6, "{after}");
            after - before > 32.0
        });
        assert!(grown);
    }
}
