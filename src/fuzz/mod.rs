//! Fuzzing of every reader of bytes: mutated files, with their checksums put right, so that what lies behind is reached.
//!
//! `ELISTIMATOR_FUZZ=10000000 ELISTIMATOR_FUZZ_SEED=1 cargo test --release --lib fuzz -- --test-threads 1 --nocapture` runs
//! ten million executions, and with `ELISTIMATOR_FUZZ_ONLY=npy,csv` of these alone; without the first, twelve thousand run
//! among the other tests, always the same ones. A failure says which input it was and leaves it in `target/fuzz`: put it into
//! `tests/fixtures/corpus` with the fix, where it is run for ever.

mod arrays;
mod directory;
mod ensemble;
#[cfg(feature = "image")]
mod images;
mod mutator;
mod targets;
mod texts;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mutator::Mutator;
use peak_alloc::PeakAlloc;
use targets::{TARGETS, Target};

/// Counts what this process has allocated.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What may be allocated before an input has shown how long it is.
const RESERVE: usize = 2 << 20;

/// How often is looked whether an input is still being read.
const LOOK: Duration = Duration::from_millis(20);

/// An input that is the same for so many looks, 20 seconds of a machine that has nothing else to do, hangs.
const PATIENCE: u32 = 1000;

/// Accepted inputs that are mutated further, for each target.
const POOL: usize = 256;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().unwrap())
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let dir = fixtures().join("corpus").join(target.name);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}", dir.display());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Runs one input; on a panic, leaves it for the corpus.
fn run(target: &Target, input: &[u8], measure: bool) -> bool {
    let before = ALLOCATOR.current_usage();
    if measure {
        ALLOCATOR.reset_peak_usage();
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let accepted = (target.accepts)(input);
        if measure {
            let taken = ALLOCATOR.peak_usage().saturating_sub(before);
            let limit = RESERVE + target.growth * input.len();
            assert!(taken <= limit, "{taken} bytes are allocated for {}, expected at most {limit}", input.len());
        }
        accepted
    }));
    outcome.unwrap_or_else(|panic| {
        let name = format!("{}-{:08x}", target.name, crc32fast::hash(input));
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(&name), input).unwrap();
        eprintln!("the input is kept as target/fuzz/{name}");
        resume_unwind(panic)
    })
}

/// So many executions from a seed; a sixteenth of them are whole directories.
fn fuzz(executions: u64, seed: u64, measure: bool, done: &AtomicU64) {
    let mut mutator = Mutator::new(seed);
    let seeds: Vec<Vec<Vec<u8>>> = TARGETS.iter().map(corpus).collect();
    let mut pools = seeds.clone();
    let checkpoints = directory::read(&fixtures().join("format-1/checkpoints"));
    let ensemble = directory::read(&fixtures().join("ensemble"));
    let (mut runs, mut accepted) = ([0u64; TARGETS.len() + 2], [0u64; TARGETS.len() + 2]);
    let only = std::env::var("ELISTIMATOR_FUZZ_ONLY").ok();
    let is_chosen = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|chosen| chosen == name));
    let chosen: Vec<usize> = (0..TARGETS.len()).filter(|&which| is_chosen(TARGETS[which].name)).collect();
    for number in 0..executions {
        done.store(number, Ordering::Relaxed);
        if number % 16 == 0 || chosen.is_empty() {
            // Which of them takes turns, where both are chosen.
            let is_ensemble = is_chosen("ensemble") && (number % 32 == 0 || !is_chosen("directory"));
            if is_ensemble || is_chosen("directory") {
                let mut files = if is_ensemble { ensemble.clone() } else { checkpoints.clone() };
                let damage = if is_ensemble { ensemble::damage } else { directory::damage };
                damage(&mut files, &mut mutator);
                let survives = if is_ensemble { ensemble::survives } else { directory::survives };
                let outcome = catch_unwind(AssertUnwindSafe(|| survives(&files)));
                let which = TARGETS.len() + usize::from(is_ensemble);
                runs[which] += 1;
                accepted[which] += u64::from(outcome.unwrap_or_else(|panic| {
                    eprintln!("directory {number} of seed {seed}: {:?}", files.keys());
                    resume_unwind(panic)
                }));
                continue;
            }
        }
        let which = *mutator.pick(&chosen);
        let target = &TARGETS[which];
        let from = if mutator.one_in(2) { &seeds[which] } else { &pools[which] };
        let (mut input, other) = (mutator.pick(from).clone(), mutator.pick(&seeds[which]).clone());
        mutator.mutate(&mut input, &other);
        (target.repair)(&mut input, &mut mutator);
        runs[which] += 1;
        if run(target, &input, measure) {
            accepted[which] += 1;
            if pools[which].len() < POOL {
                pools[which].push(input);
            } else {
                let place = mutator.below(POOL);
                pools[which][place] = input;
            }
        }
    }
    for (which, name) in TARGETS.iter().map(|target| target.name).chain(["directory", "ensemble"]).enumerate() {
        if !is_chosen(name) {
            continue;
        }
        println!("{name:17} {:9} executions, {:9} accepted", runs[which], accepted[which]);
        // Neither may all be refused, which would test the checksum alone, nor all pass.
        assert!(executions < 10_000 || (0 < accepted[which] && accepted[which] < runs[which]), "{name}");
    }
}

#[test]
fn the_corpus_is_read_or_refused() {
    for target in TARGETS {
        let accepted = corpus(target).iter().filter(|input| run(target, input, false)).count();
        assert!(accepted > 0, "{}", target.name);
    }
    assert!(directory::survives(&directory::read(&fixtures().join("format-1/checkpoints"))));
    assert!(ensemble::survives(&directory::read(&fixtures().join("ensemble"))));
}

#[test]
fn no_mutated_file_panics_hangs_or_takes_more_memory_than_it_should() {
    let (executions, seed) = (number("ELISTIMATOR_FUZZ"), number("ELISTIMATOR_FUZZ_SEED").unwrap_or(1));
    // Memory can be counted only where no other test runs beside it.
    let measure = executions.is_some();
    let executions = executions.unwrap_or(12_000);
    let done = std::sync::Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let worker = {
        let done = done.clone();
        std::thread::spawn(move || fuzz(executions, seed, measure, &done))
    };
    // Looks and not seconds: a machine that stands still, or has no time for this process, has none for either thread.
    let (mut last, mut looks) = (0, 0);
    while !worker.is_finished() {
        std::thread::sleep(LOOK);
        let now = done.load(Ordering::Relaxed);
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        assert!(looks < PATIENCE, "execution {now} of seed {seed} does not end");
    }
    if let Err(panic) = worker.join() {
        resume_unwind(panic);
    }
    println!("{executions} executions from seed {seed} in {:.0} s", start.elapsed().as_secs_f64());
}
