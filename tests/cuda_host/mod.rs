//! The CUDA kernels as a program of the host: compiled by g++ when a test asks, and fed over a pipe.

// Not every program of tests uses it.
#[allow(dead_code)]
mod double;

#[allow(unused_imports)]
pub use double::{Log, double};

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// An argument of a launch.
#[derive(Clone)]
pub enum Argument<'a> {
    /// A buffer of the device.
    F32(&'a [f32]),
    U32(&'a [u32]),
    U8(&'a [u8]),
    /// The buffer of the argument of this number once more: an operation in place.
    Same(u32),
    /// A null pointer.
    Null,
    /// A number or a struct of numbers.
    Value(Vec<u8>),
    /// A struct with pointers at these offsets, each the number of a buffer plus one.
    Struct(Vec<u8>, Vec<u32>),
}

impl Argument<'_> {
    pub fn u32(value: u32) -> Self {
        Self::Value(value.to_ne_bytes().into())
    }

    pub fn u64(value: u64) -> Self {
        Self::Value(value.to_ne_bytes().into())
    }

    pub fn f32(value: f32) -> Self {
        Self::Value(value.to_ne_bytes().into())
    }

    fn buffer(&self) -> Option<Vec<u8>> {
        match self {
            Self::F32(values) => Some(values.iter().flat_map(|x| x.to_ne_bytes()).collect()),
            Self::U32(values) => Some(values.iter().flat_map(|x| x.to_ne_bytes()).collect()),
            Self::U8(values) => Some(values.to_vec()),
            _ => None,
        }
    }
}

/// A buffer after a launch.
#[derive(Debug, PartialEq)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    pub fn f32(&self) -> Vec<f32> {
        self.0.chunks_exact(4).map(|bytes| f32::from_ne_bytes(bytes.try_into().unwrap())).collect()
    }

    pub fn u32(&self) -> Vec<u32> {
        self.0.chunks_exact(4).map(|bytes| u32::from_ne_bytes(bytes.try_into().unwrap())).collect()
    }

    pub fn u8(&self) -> Vec<u8> {
        self.0.clone()
    }
}

/// Running programs that launch kernels: one with address and undefined-behaviour checks, and one that finds races.
pub struct Host {
    checked: Child,
    races: Child,
}

/// The orders of threads and blocks of `shim.h`; other numbers shuffle them.
const ASCENDING: u32 = 0;
const DESCENDING: u32 = 1;
const SHUFFLED: u32 = 12_345;

impl Host {
    /// Compiles the kernels, once for all tests, and starts the programs; `None`, with a line that says so, without g++.
    pub fn start() -> Option<Self> {
        static PROGRAMS: OnceLock<Option<[PathBuf; 2]>> = OnceLock::new();
        let programs = PROGRAMS.get_or_init(|| {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
            let flags = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized"];
            let checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
            let checked = compile(&flags, &checks, "runner.cpp", &folder.join("cuda_kernels"))?;
            Some([checked, compile_with_races("runner.cpp", &folder.join("cuda_kernels-races"))?])
        });
        let Some(programs) = programs else {
            println!("skipped: there is no g++ to compile the kernels with");
            return None;
        };
        let [checked, races] = programs
            .each_ref()
            .map(|program| Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        Some(Self { checked, races })
    }

    /// What the program that finds races says of a kernel of `planted.cpp`, on a buffer of so many values: nothing, if it finds
    /// none. `None` without g++.
    pub fn defect(name: &str, grid: (u32, u32), block: u32, values: &[f32]) -> Option<String> {
        static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda_kernels-planted");
        let program = PROGRAM.get_or_init(|| compile_with_races("planted.cpp", &target)).as_ref()?;
        let (request, _) = request(name, grid, block, &[Argument::F32(values)], &[], SHUFFLED);
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&request).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), text.is_empty(), "{name}: {text}");
        Some(text)
    }

    /// Runs a kernel over `grid` blocks of `block` threads; returns all buffers, in order.
    #[track_caller]
    pub fn launch(&mut self, name: &str, grid: (u32, u32), block: u32, arguments: &[Argument<'_>]) -> Vec<Buffer> {
        self.launch_with(name, grid, block, arguments, &[])
    }

    /// The same with further buffers, which only structs among the arguments point to; they are numbered after the others.
    #[track_caller]
    pub fn launch_with(
        &mut self,
        name: &str,
        grid: (u32, u32),
        block: u32,
        arguments: &[Argument<'_>],
        further: &[Argument<'_>],
    ) -> Vec<Buffer> {
        let ascending = Self::run(&mut self.checked, name, grid, block, arguments, further, ASCENDING);
        for (program, order) in [(&mut self.checked, DESCENDING), (&mut self.races, SHUFFLED)] {
            let other = Self::run(program, name, grid, block, arguments, further, order);
            assert!(ascending == other, "{name}: the order of the threads makes a difference");
        }
        ascending
    }

    #[track_caller]
    fn run(
        program: &mut Child,
        name: &str,
        grid: (u32, u32),
        block: u32,
        arguments: &[Argument<'_>],
        further: &[Argument<'_>],
        order: u32,
    ) -> Vec<Buffer> {
        let (request, lengths) = request(name, grid, block, arguments, further, order);
        let failed = "the kernel's program failed: what it says is above";
        program.stdin.as_mut().unwrap().write_all(&request).expect(failed);
        let output = program.stdout.as_mut().unwrap();
        let mut answer = |length: usize| {
            let mut bytes = vec![0; length];
            output.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{name}: {failed} ({error})"));
            Buffer(bytes)
        };
        lengths.into_iter().map(&mut answer).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for program in [&mut self.checked, &mut self.races] {
            drop(program.stdin.take());
            // A leak or a late finding of the address checks shows here.
            let status = program.wait().unwrap();
            assert!(std::thread::panicking() || status.success(), "the kernels' program ended with {status}");
        }
    }
}

/// A launch as the programs read it, and the lengths of the buffers that they answer with.
fn request(
    name: &str,
    grid: (u32, u32),
    block: u32,
    arguments: &[Argument<'_>],
    further: &[Argument<'_>],
    order: u32,
) -> (Vec<u8>, Vec<usize>) {
    let mut request = Vec::new();
    put(&mut request, name.as_bytes());
    for number in [grid.0, grid.1, block, order, arguments.len() as u32] {
        request.extend(number.to_ne_bytes());
    }
    let mut lengths = Vec::new();
    let all = arguments.iter().filter_map(Argument::buffer).chain(further.iter().filter_map(Argument::buffer));
    let all = all.collect::<Vec<_>>();
    request.extend((all.len() as u32).to_ne_bytes());
    for buffer in &all {
        put(&mut request, buffer);
        lengths.push(buffer.len());
    }
    let mut next = 0u32;
    let mut numbers = Vec::new();
    for argument in arguments {
        match argument {
            Argument::F32(_) | Argument::U32(_) | Argument::U8(_) => {
                request.push(1);
                request.extend(next.to_ne_bytes());
                numbers.push(next);
                next += 1;
            }
            Argument::Same(argument) => {
                request.push(1);
                request.extend(numbers[*argument as usize].to_ne_bytes());
            }
            Argument::Null => request.push(2),
            Argument::Value(bytes) => {
                request.push(0);
                put(&mut request, bytes);
            }
            Argument::Struct(bytes, pointers) => {
                request.push(3);
                put(&mut request, bytes);
                put(&mut request, &ints(pointers));
            }
        }
    }
    (request, lengths)
}

/// Compiles a file of this folder; `None` if there is no g++.
pub fn compile(flags: &[&str], more: &[&str], file: &str, target: &Path) -> Option<PathBuf> {
    // It gets its name when it is whole: the same tests may run at the same time, with another profile or features.
    let made = tempfile::Builder::new().prefix("compiled-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let compiled = made.path().join("compiled");
    gcc(&[flags, more].concat(), &[&folder().join(file)], &compiled)?;
    std::fs::rename(&compiled, target).unwrap();
    Some(target.into())
}

/// The same with the calls of a sanitizer of threads at all accesses to memory, which `races.cpp` answers. Without
/// optimisation, which may read a place for many threads at once.
fn compile_with_races(file: &str, target: &Path) -> Option<PathBuf> {
    let made = tempfile::Builder::new().prefix("compiled-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [kernels, races, compiled] = ["kernels.o", "races.o", "compiled"].map(|name| made.path().join(name));
    let flags = ["-O0", "-g", "-w", "-c", "-DRACES", "-fsanitize=thread", "-fno-threadsafe-statics"];
    gcc(&flags, &[&folder().join(file)], &kernels)?;
    gcc(&["-O2", "-c"], &[&folder().join("races.cpp")], &races)?;
    gcc(&[], &[&kernels, &races], &compiled)?;
    std::fs::rename(&compiled, target).unwrap();
    Some(target.into())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_host")
}

fn gcc(flags: &[&str], files: &[&Path], to: &Path) -> Option<()> {
    let mut command = Command::new("g++");
    command.args(["-std=c++17", "-ffp-contract=off"]).args(flags).arg("-o").arg(to).args(files);
    match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("g++: {error}"),
        Ok(output) => {
            assert!(output.status.success(), "g++: {}", String::from_utf8_lossy(&output.stderr));
            Some(())
        }
    }
}

fn put(request: &mut Vec<u8>, bytes: &[u8]) {
    request.extend((bytes.len() as u32).to_ne_bytes());
    request.extend(bytes);
}

/// The bytes of numbers.
pub fn ints(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

/// A struct of pointers followed by numbers of 32 bits.
pub fn struct_of(pointers: &[u64], numbers: &[u32]) -> Argument<'static> {
    let offsets = (0..pointers.len() as u32).map(|i| 8 * i).collect();
    let bytes = pointers.iter().flat_map(|p| p.to_ne_bytes()).chain(ints(numbers)).collect();
    Argument::Struct(bytes, offsets)
}

/// Numbers between -1 and 1 that look random, the same for the same seed.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x0123_4567;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32) / 8_388_608.0 - 1.0
    };
    next();
    (0..count).map(|_| next()).collect()
}
