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

/// A running program that launches kernels.
pub struct Host {
    child: Child,
}

impl Host {
    /// Compiles the kernels, once for all tests, and starts the program; `None`, with a line that says so, without g++.
    pub fn start() -> Option<Self> {
        static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
        let program = PROGRAM.get_or_init(|| {
            let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda_kernels");
            compile(
                &["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized"],
                &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
                "runner.cpp",
                &target,
            )
        });
        let Some(program) = program else {
            println!("skipped: there is no g++ to compile the kernels with");
            return None;
        };
        let child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Some(Self { child })
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
        let ascending = self.run(name, grid, block, arguments, further, false);
        let descending = self.run(name, grid, block, arguments, further, true);
        assert!(ascending == descending, "{name}: the order of the threads makes a difference");
        ascending
    }

    #[track_caller]
    fn run(
        &mut self,
        name: &str,
        grid: (u32, u32),
        block: u32,
        arguments: &[Argument<'_>],
        further: &[Argument<'_>],
        descending: bool,
    ) -> Vec<Buffer> {
        let mut request = Vec::new();
        put(&mut request, name.as_bytes());
        for number in [grid.0, grid.1, block, u32::from(descending), arguments.len() as u32] {
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
        let failed = "the kernel's program failed: what it says is above";
        self.child.stdin.as_mut().unwrap().write_all(&request).expect(failed);
        let output = self.child.stdout.as_mut().unwrap();
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
        drop(self.child.stdin.take());
        // A leak or a late finding of the address checks shows here.
        let status = self.child.wait().unwrap();
        assert!(std::thread::panicking() || status.success(), "the kernels' program ended with {status}");
    }
}

/// Compiles a file of this folder; `None` if there is no g++.
pub fn compile(flags: &[&str], more: &[&str], file: &str, target: &Path) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_host");
    // It gets its name when it is whole: the same tests may run at the same time, with another profile or features.
    let made = tempfile::Builder::new().prefix("compiled-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let compiled = made.path().join("compiled");
    let result = Command::new("g++")
        .args(["-std=c++17", "-ffp-contract=off"])
        .args(flags)
        .args(more)
        .arg("-o")
        .arg(&compiled)
        .arg(folder.join(file))
        .output();
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("g++: {error}"),
        Ok(output) => {
            assert!(output.status.success(), "g++: {}", String::from_utf8_lossy(&output.stderr));
            std::fs::rename(&compiled, target).unwrap();
            Some(target.into())
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
