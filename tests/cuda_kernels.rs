//! The CUDA kernels, compiled for the host, against plain formulas in double precision. Each launch is made with
//! the threads of a block in ascending, in descending and in a shuffled order, and must give the same bits; the compiler's
//! address and undefined-behaviour checks watch every access, and `cuda_host/races.cpp` which thread or block makes it: none
//! may use what another writes before they waited for each other. Skipped, with a line that says so, where there is no g++.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cuda_host;

use cuda_host::{Argument as A, Host, numbers, struct_of};
use elistimator::nn::RandomStream;

/// Asserts that all values agree to 1e-5 of the largest magnitude, or 1e-5 below 1.
#[track_caller]
fn assert_close(what: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1.0f64, |scale, x| scale.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*got) - want).abs() <= 1e-5 * scale, "{what}: element {i} is {got}, expected {want}");
    }
}

/// The gradient of `f` by central differences.
fn differences(x: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    (0..x.len())
        .map(|i| {
            let (middle, h) = (x[i], 1e-5);
            x[i] = middle + h;
            let above = f(&x);
            x[i] = middle - h;
            let below = f(&x);
            x[i] = middle;
            (above - below) / (2.0 * h)
        })
        .collect()
}

fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function by its Taylor series, exact enough for |x| < 4.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..80 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

const SLOPE: f32 = 0.1;

fn activate(kind: u32, x: f64) -> f64 {
    match kind {
        1 => x.max(0.0),
        2 => x.max(0.0) + f64::from(SLOPE) * x.min(0.0),
        3 => sigmoid(x),
        4 => x.tanh(),
        5 => 0.5 * x * (1.0 + erf(x / 2.0f64.sqrt())),
        6 => x * sigmoid(x),
        _ => x,
    }
}

const KINDS: u32 = 7;
/// From this kind on the derivative is computed from the input.
const FROM_INPUT: u32 = 5;

#[test]
fn activations() {
    let Some(mut host) = Host::start() else { return };
    let n = 700;
    let x = numbers(1, n);
    let dy = numbers(2, n);
    for kind in 0..KINDS {
        let y = vec![f32::NAN; n];
        let out = host.launch(
            "activation",
            (3, 1),
            256,
            &[A::F32(&y), A::F32(&x), A::u32(kind), A::f32(SLOPE), A::u64(n as u64)],
        );
        let y = out[0].f32();
        assert_close("y", &y, &x.iter().map(|x| activate(kind, f64::from(*x))).collect::<Vec<_>>());
        let known = if kind < FROM_INPUT { &y } else { &x };
        let dx = vec![1.0; n];
        let out = host.launch(
            "activation_backward",
            (3, 1),
            256,
            &[A::F32(&dx), A::F32(&dy), A::F32(known), A::u32(kind), A::f32(SLOPE), A::u64(n as u64)],
        );
        let loss = |x: &[f64]| dot(&x.iter().map(|x| activate(kind, *x)).collect::<Vec<_>>(), &dy);
        let want = differences(&x, loss).iter().map(|g| 1.0 + g).collect::<Vec<_>>();
        assert_close("dx", &out[0].f32(), &want);
    }
}

/// Most of these give the right results here in whatever order their threads run.
#[test]
fn planted_races_and_misplaced_phases_are_found() {
    let values = (0..16).map(|i| i as f32).collect::<Vec<_>>();
    for (kernel, defect) in [
        ("no_border", "a thread writes what another reads in that phase"),
        ("same_place", "two threads write to the same place in one phase"),
        ("read_by_all", "a thread reads what another writes in that phase"),
        ("other_block", "a thread writes what another reads in that phase"),
        ("same_row", "what another block writes is used"),
        ("unwritten", "shared memory is read that the block has not written"),
        ("between", "memory is written between phases"),
        ("read_between", "a thread writes what another reads in that phase"),
        ("divergent", "a thread's number is asked for between two phases"),
        ("nested", "a phase begins within another"),
        ("left", "a phase was left before all threads had run"),
    ] {
        let Some(found) = Host::defect(kernel, (2, 1), 8, &values) else { return };
        assert!(found.starts_with(defect), "{kernel}: {found:?}");
    }
    assert_eq!(Host::defect("sound", (2, 1), 8, &values).as_deref(), Some(""));
}

#[test]
fn a_relu_lets_nan_through() {
    let Some(mut host) = Host::start() else { return };
    let out = host.launch(
        "activation",
        (1, 1),
        32,
        &[A::F32(&[0.0]), A::F32(&[f32::NAN]), A::u32(1), A::f32(0.0), A::u64(1)],
    );
    assert!(out[0].f32()[0].is_nan());
}

#[test]
fn bias_and_activation() {
    let Some(mut host) = Host::start() else { return };
    // Columns beyond one block, rows beyond one chunk, neither a multiple of anything.
    let (rows, columns, rows_per_block) = (45, 70, 20);
    let n = rows * columns;
    let (z, bias, dy) = (numbers(1, n), numbers(2, columns), numbers(3, n));
    let sum = |i: usize| f64::from(z[i]) + f64::from(bias[i % columns]);
    for kind in 0..KINDS {
        // In place, as the operations do it.
        let before = vec![0.0; n];
        let before = if kind < FROM_INPUT { A::Null } else { A::F32(&before) };
        let arguments = [
            A::F32(&z),
            A::Same(0),
            A::F32(&bias),
            before,
            A::u32(kind),
            A::f32(SLOPE),
            A::u64(n as u64),
            A::u32(columns as u32),
        ];
        let out = host.launch("bias_activation", ((n as u32).div_ceil(128), 1), 128, &arguments);
        let y = out[0].f32();
        assert_close("y", &y, &(0..n).map(|i| activate(kind, sum(i))).collect::<Vec<_>>());
        let known = if kind < FROM_INPUT { y } else { out[2].f32() };
        let chunks = rows.div_ceil(rows_per_block);
        let out = host.launch(
            "bias_activation_backward",
            (columns.div_ceil(32) as u32, chunks as u32),
            256,
            &[
                A::F32(&vec![f32::NAN; n]),
                A::F32(&vec![f32::NAN; chunks * columns]),
                A::F32(&dy),
                A::F32(&known),
                A::u32(kind),
                A::f32(SLOPE),
                A::u32(rows as u32),
                A::u32(columns as u32),
                A::u32(rows_per_block as u32),
                A::u32(0),
            ],
        );
        let dz = (0..n)
            .map(|i| {
                let derivative = differences(&[sum(i) as f32], |x| activate(kind, x[0]))[0];
                f64::from(dy[i]) * derivative
            })
            .collect::<Vec<_>>();
        assert_close("dz", &out[0].f32(), &dz);
        let partial = out[1].f32();
        let out = host.launch(
            "column_sums",
            (columns.div_ceil(32) as u32, 1),
            64,
            &[
                A::F32(&vec![1.0; columns]),
                A::F32(&partial),
                A::u32(chunks as u32),
                A::u32(columns as u32),
                A::u32(chunks as u32),
                A::u32(1),
            ],
        );
        let want = (0..columns).map(|c| 1.0 + (0..rows).map(|r| dz[r * columns + c]).sum::<f64>()).collect::<Vec<_>>();
        assert_close("db", &out[0].f32(), &want);
    }
}

#[test]
fn sums_of_rows() {
    let Some(mut host) = Host::start() else { return };
    let x = numbers(1, 3 * 1000);
    for count in [3000, 2007] {
        let x = &x[..count];
        let arguments = [A::F32(&[1.0, 2.0, 3.0]), A::F32(x), A::u32(1000), A::u64(count as u64)];
        let out = host.launch("row_sums", (3, 1), 256, &arguments);
        let sums = x.chunks(1000).zip(1..).map(|(row, before)| f64::from(before) + wide(row).iter().sum::<f64>());
        assert_close("sums", &out[0].f32(), &sums.collect::<Vec<_>>());
    }
    let arguments = [A::F32(&[1.0; 5]), A::F32(&[0.5, 2.0, 4.0]), A::u32(2), A::u64(5)];
    let out = host.launch("row_sums_backward", (1, 1), 32, &arguments);
    assert_eq!(out[0].f32(), [1.5, 1.5, 3.0, 3.0, 5.0]);
}

#[test]
fn sums_over_the_middle_axis() {
    let Some(mut host) = Host::start() else { return };
    let (outer, length, inner) = (3, 50, 7);
    let x = numbers(1, outer * length * inner);
    let (y, dy) = (vec![f32::NAN; outer * inner], numbers(2, outer * inner));
    let sizes = [A::u32(length as u32), A::u32(inner as u32)];
    let arguments = [A::F32(&y), A::F32(&x), sizes[0].clone(), sizes[1].clone(), A::u64(y.len() as u64)];
    let out = host.launch("middle_sums", (2, 1), 16, &arguments);
    let sum = |i: usize| (0..length).map(|k| f64::from(x[(i / inner * length + k) * inner + i % inner])).sum::<f64>();
    assert_close("sums", &out[0].f32(), &(0..y.len()).map(sum).collect::<Vec<_>>());
    let dx = vec![1.0; x.len()];
    let arguments = [A::F32(&dx), A::F32(&dy), sizes[0].clone(), sizes[1].clone(), A::u64(x.len() as u64)];
    let out = host.launch("middle_sums_backward", (66, 1), 16, &arguments);
    let want: Vec<f32> = (0..x.len()).map(|i| 1.0 + dy[i / (length * inner) * inner + i % inner]).collect();
    assert_eq!(out[0].f32(), want);
}

#[test]
fn arithmetic_on_gradients() {
    let Some(mut host) = Host::start() else { return };
    let x = numbers(1, 100);
    let out = host.launch("square_sums", (3, 1), 16, &[A::F32(&[f32::NAN; 3]), A::F32(&x), A::u64(40), A::u64(100)]);
    let want: Vec<f64> = wide(&x).chunks(40).map(|part| part.iter().map(|x| x * x).sum()).collect();
    assert_close("sums of squares", &out[0].f32(), &want);
    let odd = [0.25, -3.0, f32::NAN, 3.0];
    let out = host.launch("clip_value", (1, 1), 32, &[A::F32(&odd), A::f32(0.5), A::u64(4)]);
    let clipped = out[0].f32();
    assert_eq!([clipped[0], clipped[1], clipped[3]], [0.25, -0.5, 0.5]);
    assert!(clipped[2].is_nan());
    let out = host.launch("scale", (1, 1), 32, &[A::F32(&[1.0, 2.0]), A::F32(&[0.5]), A::u64(2)]);
    assert_eq!(out[0].f32(), [0.5, 1.0]);
    let out =
        host.launch("add_weighted", (1, 1), 32, &[A::F32(&[1.0, 2.0]), A::F32(&[4.0, 8.0]), A::f32(0.5), A::u64(2)]);
    assert_eq!(out[0].f32(), [3.0, 6.0]);
}

#[test]
fn sums_of_bags() {
    let Some(mut host) = Host::start() else { return };
    let (width, factors) = (3, [2.0, 0.5, -1.0]);
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
    let arguments = [A::F32(&[f32::NAN; 9]), A::F32(&x), A::U32(&[0, 2, 2, 3]), A::F32(&factors)];
    let out = host.launch("bag_sums", (1, 1), 16, &[&arguments[..], &[A::u32(3), A::u32(width)]].concat());
    assert_eq!(out[0].f32(), [4.0, 6.5, 9.0, 0.0, 0.0, 0.0, -7.0, -8.0, -9.0]);
    let arguments = [A::F32(&[1.0; 9]), A::F32(&x), A::U32(&[0, 0, 2]), A::F32(&factors)];
    let out = host.launch("bag_sums_backward", (1, 1), 16, &[&arguments[..], &[A::u32(3), A::u32(width)]].concat());
    assert_eq!(out[0].f32(), [3.0, 5.0, 7.0, 1.5, 2.0, 2.5, -6.0, -7.0, -8.0]);
}

#[test]
fn dropout_draws_what_the_cpu_draws() {
    let Some(mut host) = Host::start() else { return };
    let (n, key, threshold, scale) = (1000, 0x0123_4567_89ab_cdef, 0x6000_0000, 1.6);
    let x = numbers(1, n);
    let dropped = |i: usize| {
        let kept = RandomStream::bits(key, i as u64) >= threshold;
        if kept { f64::from(scale) * f64::from(x[i]) } else { 0.0 }
    };
    for accumulate in [0, 1] {
        let y = vec![0.5; n];
        let out = host.launch(
            "dropout",
            (4, 1),
            256,
            &[
                A::F32(&y),
                A::F32(&x),
                A::u64(key),
                A::u32(threshold),
                A::f32(scale),
                A::u32(accumulate),
                A::u64(n as u64),
            ],
        );
        let want = (0..n).map(|i| 0.5 * f64::from(accumulate) + dropped(i)).collect::<Vec<_>>();
        assert_close("y", &out[0].f32(), &want);
    }
    let kept = (0..n).filter(|i| dropped(*i) != 0.0).count();
    assert!((580..670).contains(&kept), "{kept} of 1000 kept at a probability of 0.625");
}

/// A window as the kernels take it.
#[derive(Clone, Copy)]
struct Window {
    batch: usize,
    channels: usize,
    size: (usize, usize),
    kernel: (usize, usize),
    stride: (usize, usize),
    dilation: (usize, usize),
    pad: (usize, usize),
    out: (usize, usize),
}

const WINDOWS: [Window; 4] = [
    // "same" 5x5
    Window {
        batch: 3,
        channels: 2,
        size: (7, 6),
        kernel: (5, 5),
        stride: (1, 1),
        dilation: (1, 1),
        pad: (2, 2),
        out: (7, 6),
    },
    // stride with rows left over
    Window {
        batch: 2,
        channels: 3,
        size: (8, 9),
        kernel: (3, 2),
        stride: (2, 3),
        dilation: (1, 1),
        pad: (0, 1),
        out: (3, 3),
    },
    // dilation, more padding below and to the right than above
    Window {
        batch: 2,
        channels: 1,
        size: (6, 5),
        kernel: (2, 3),
        stride: (1, 2),
        dilation: (3, 2),
        pad: (1, 0),
        out: (6, 2),
    },
    // windows that lie in the padding altogether
    Window {
        batch: 1,
        channels: 2,
        size: (3, 3),
        kernel: (2, 2),
        stride: (2, 2),
        dilation: (1, 1),
        pad: (2, 2),
        out: (3, 3),
    },
];

impl Window {
    fn argument(&self) -> A<'static> {
        let w = self;
        let fields = [w.batch, w.channels, w.size.0, w.size.1, w.kernel.0, w.kernel.1, w.stride.0, w.stride.1];
        let more = [w.dilation.0, w.dilation.1, w.pad.0, w.pad.1, w.out.0, w.out.1];
        A::Value(fields.iter().chain(&more).flat_map(|n| (*n as u32).to_ne_bytes()).collect())
    }

    fn inputs(&self) -> usize {
        self.batch * self.channels * self.size.0 * self.size.1
    }

    fn outputs(&self) -> usize {
        self.batch * self.channels * self.out.0 * self.out.1
    }

    /// The pixel of the plane that cell (i, j) of the window at (y, x) sees.
    fn pixel(&self, y: usize, x: usize, i: usize, j: usize) -> Option<usize> {
        let row = (y * self.stride.0 + i * self.dilation.0).checked_sub(self.pad.0)?;
        let column = (x * self.stride.1 + j * self.dilation.1).checked_sub(self.pad.1)?;
        (row < self.size.0 && column < self.size.1).then_some(row * self.size.1 + column)
    }

    /// The columns' matrix.
    fn columns(&self, x: &[f64]) -> Vec<f64> {
        let plane = self.size.0 * self.size.1;
        let mut columns = Vec::new();
        for channel in 0..self.channels {
            for (i, j) in cells(self.kernel) {
                for image in 0..self.batch {
                    for (out_y, out_x) in cells(self.out) {
                        let pixel = self.pixel(out_y, out_x, i, j);
                        columns.push(pixel.map_or(0.0, |p| x[(image * self.channels + channel) * plane + p]));
                    }
                }
            }
        }
        columns
    }

    /// The pool of every window of every plane.
    fn pool(&self, x: &[f64], pool: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let mut y = Vec::new();
        for plane in x.chunks(self.size.0 * self.size.1) {
            for (out_y, out_x) in cells(self.out) {
                let seen = cells(self.kernel).filter_map(|(i, j)| self.pixel(out_y, out_x, i, j)).map(|p| plane[p]);
                y.push(pool(&seen.collect::<Vec<_>>()));
            }
        }
        y
    }
}

fn cells((height, width): (usize, usize)) -> impl Iterator<Item = (usize, usize)> {
    (0..height).flat_map(move |y| (0..width).map(move |x| (y, x)))
}

#[test]
fn columns_of_images_and_back() {
    let Some(mut host) = Host::start() else { return };
    for w in WINDOWS {
        let x = numbers(1, w.inputs());
        let want = w.columns(&wide(&x));
        let count = (w.batch * w.out.0 * w.out.1) as u32;
        // Fewer rows of blocks than rows of the matrix: each goes on to the next.
        let grid = (count.div_ceil(32), 3);
        let out = host.launch("im2col", grid, 32, &[A::F32(&vec![f32::NAN; want.len()]), A::F32(&x), w.argument()]);
        assert_close("columns", &out[0].f32(), &want);
        // Linear, so its adjoint is the gradient of its product with anything.
        let dcolumns = numbers(2, want.len());
        let grid = (((w.size.0 * w.size.1) as u32).div_ceil(32), 2);
        let out = host.launch("col2im", grid, 32, &[A::F32(&vec![1.0; x.len()]), A::F32(&dcolumns), w.argument()]);
        let want = differences(&x, |x| dot(&w.columns(x), &dcolumns)).iter().map(|g| 1.0 + g).collect::<Vec<_>>();
        assert_close("dx", &out[0].f32(), &want);
    }
}

#[test]
fn outputs_of_convolutions() {
    let Some(mut host) = Host::start() else { return };
    let (batch, channels, pixels) = (3, 5, 14);
    let n = batch * channels * pixels;
    let (z, bias, dy) = (numbers(1, n), numbers(2, channels), numbers(3, n));
    // Element (b, c, p) of y comes from (c, b, p) of z.
    let from = |i: usize| {
        let (b, c, p) = (i / (channels * pixels), i / pixels % channels, i % pixels);
        (c * batch + b) * pixels + p
    };
    for kind in 0..KINDS {
        let before = vec![0.0; n];
        let before = if kind < FROM_INPUT { A::Null } else { A::F32(&before) };
        let sizes = [A::u32(batch as u32), A::u32(channels as u32), A::u32(pixels as u32)];
        let [b, c, p] = &sizes;
        let out = host.launch(
            "convolution_output",
            (2, 2),
            32,
            &[
                A::F32(&vec![f32::NAN; n]),
                A::F32(&z),
                A::F32(&bias),
                before,
                A::u32(kind),
                A::f32(SLOPE),
                b.clone(),
                c.clone(),
                p.clone(),
            ],
        );
        let y = out[0].f32();
        let sum = |i: usize| f64::from(z[from(i)]) + f64::from(bias[i / pixels % channels]);
        assert_close("y", &y, &(0..n).map(|i| activate(kind, sum(i))).collect::<Vec<_>>());
        let known = if kind < FROM_INPUT { y } else { out[3].f32() };
        // 42 columns in chunks of 20, the last one ragged.
        let out = host.launch(
            "convolution_output_backward",
            (3, 2),
            16,
            &[
                A::F32(&vec![f32::NAN; n]),
                A::F32(&vec![f32::NAN; channels * 3]),
                A::F32(&dy),
                A::F32(&known),
                A::u32(kind),
                A::f32(SLOPE),
                b.clone(),
                c.clone(),
                p.clone(),
                A::u32(20),
            ],
        );
        let mut dz = vec![0.0; n];
        for i in 0..n {
            dz[from(i)] = f64::from(dy[i]) * differences(&[sum(i) as f32], |x| activate(kind, x[0]))[0];
        }
        assert_close("dz", &out[0].f32(), &dz);
        let sums = dz.chunks(batch * pixels).flat_map(|row| row.chunks(20)).map(|chunk| chunk.iter().sum());
        assert_close("sums", &out[1].f32(), &sums.collect::<Vec<f64>>());
    }
}

#[test]
fn the_fused_pool() {
    let Some(mut host) = Host::start() else { return };
    // A row and two columns are left over.
    let (batch, channels, size, pool) = (2, 3, (7, 8), (2, 3));
    let out_size = (size.0 / pool.0, size.1 / pool.1);
    let (plane, pixels) = (size.0 * size.1, out_size.0 * out_size.1);
    let (z, bias) = (numbers(1, batch * channels * plane), numbers(2, channels));
    let dy = numbers(3, batch * channels * pixels);
    let forward = |z: &[f64]| {
        let mut y = Vec::new();
        for (image, channel) in cells((batch, channels)) {
            let plane = &z[(channel * batch + image) * plane..][..plane];
            for (out_y, out_x) in cells(out_size) {
                let seen = cells(pool).map(|(i, j)| plane[(out_y * pool.0 + i) * size.1 + out_x * pool.1 + j]);
                y.push((seen.fold(f64::NEG_INFINITY, f64::max) + f64::from(bias[channel])).max(0.0));
            }
        }
        y
    };
    let fields = [batch, channels, size.0, size.1, pool.0, pool.1, out_size.0, out_size.1];
    let p = A::Value(fields.iter().flat_map(|n| (*n as u32).to_ne_bytes()).collect());
    let out = host.launch(
        "pool_output",
        (1, 2),
        32,
        &[A::F32(&vec![f32::NAN; dy.len()]), A::U8(&vec![9; dy.len()]), A::F32(&z), A::F32(&bias), p.clone()],
    );
    let (y, winners) = (out[0].f32(), out[1].u8());
    assert_close("y", &y, &forward(&wide(&z)));
    let out = host.launch(
        "pool_output_backward",
        (3, 2),
        16,
        &[
            A::F32(&vec![f32::NAN; z.len()]),
            A::F32(&vec![f32::NAN; channels * 3]),
            A::F32(&dy),
            A::F32(&y),
            A::U8(&winners),
            p,
            A::u32(40),
        ],
    );
    let dz = differences(&z, |z| dot(&forward(z), &dy));
    assert_close("dz", &out[0].f32(), &dz);
    let sums = dz.chunks(batch * plane).flat_map(|row| row.chunks(40)).map(|chunk| chunk.iter().sum());
    assert_close("sums", &out[1].f32(), &sums.collect::<Vec<f64>>());
}

#[test]
fn of_equal_values_the_first_is_the_largest() {
    let Some(mut host) = Host::start() else { return };
    let p = A::Value([1u32, 1, 2, 2, 2, 2, 1, 1].iter().flat_map(|n| n.to_ne_bytes()).collect());
    let z = [1.0, 3.0, 3.0, 2.0];
    let out = host.launch("pool_output", (1, 1), 32, &[A::F32(&[0.0]), A::U8(&[9]), A::F32(&z), A::Null, p]);
    assert_eq!((out[0].f32(), out[1].u8()), (vec![3.0], vec![1]));
}

#[test]
fn pools() {
    let Some(mut host) = Host::start() else { return };
    for w in WINDOWS {
        let (x, dy) = (numbers(1, w.inputs()), numbers(2, w.outputs()));
        let (grid, block) = ((2, 2), 64);
        let largest = |seen: &[f64]| seen.iter().copied().reduce(f64::max).unwrap_or(f64::from(f32::MIN));
        let mean = |seen: &[f64]| seen.iter().sum::<f64>() / seen.len().max(1) as f64;

        let empty = vec![f32::NAN; dy.len()];
        let at = vec![0; dy.len()];
        let out = host.launch("max_pool", grid, block, &[A::F32(&empty), A::U32(&at), A::F32(&x), w.argument()]);
        let want = w.pool(&wide(&x), largest);
        for (got, want) in out[0].f32().iter().zip(&want) {
            assert_eq!(f64::from(*got), *want);
        }
        let at = out[1].u32();
        let dx = vec![1.0; x.len()];
        let out = host.launch("max_pool_backward", grid, block, &[A::F32(&dx), A::F32(&dy), A::U32(&at), w.argument()]);
        // What lies outside is the same on both sides of a difference, but too large to subtract.
        let inside = |y: Vec<f64>| y.into_iter().map(|y| if y < -1e30 { 0.0 } else { y }).collect::<Vec<_>>();
        let want = differences(&x, |x| dot(&inside(w.pool(x, largest)), &dy));
        assert_close("dx of max", &out[0].f32(), &want.iter().map(|g| 1.0 + g).collect::<Vec<_>>());

        let out = host.launch("average_pool", grid, block, &[A::F32(&empty), A::F32(&x), w.argument()]);
        assert_close("mean", &out[0].f32(), &w.pool(&wide(&x), mean));
        let out = host.launch("average_pool_backward", grid, block, &[A::F32(&dx), A::F32(&dy), w.argument()]);
        let want = differences(&x, |x| dot(&w.pool(x, mean), &dy));
        assert_close("dx of mean", &out[0].f32(), &want.iter().map(|g| 1.0 + g).collect::<Vec<_>>());
    }
}

#[test]
fn cross_entropy() {
    let Some(mut host) = Host::start() else { return };
    let (rows, smoothing) = (5, 0.1f32);
    for classes in [3, 100] {
        let n = rows * classes;
        let mut logits = numbers(1, n);
        logits.iter_mut().for_each(|x| *x = 30.0 * *x + 1e5);
        // A row that does not count may hold anything.
        logits[3 * classes..][..2].copy_from_slice(&[f32::INFINITY, f32::NAN]);
        let labels = (0..rows as u32).map(|row| row * 7 % classes as u32).collect::<Vec<_>>();
        let mut row_weights = numbers(2, rows);
        row_weights[3] = 0.0;
        let class_weights = numbers(3, classes).iter().map(|x| x + 2.0).collect::<Vec<_>>();
        let dense = numbers(4, n).iter().map(|x| x.abs()).collect::<Vec<_>>();
        let dloss = numbers(5, rows);
        for is_dense in [false, true] {
            let target = |row: usize, c: usize| {
                if is_dense {
                    return f64::from(dense[row * classes + c]);
                }
                let hit = if labels[row] as usize == c { 1.0 - f64::from(smoothing) } else { 0.0 };
                f64::from(class_weights[c]) * (hit + f64::from(smoothing) / classes as f64)
            };
            let loss = |x: &[f64]| {
                (0..rows)
                    .map(|row| {
                        if row_weights[row] == 0.0 {
                            return 0.0;
                        }
                        let x = &x[row * classes..][..classes];
                        let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                        let log_sum = top + x.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
                        let sum = (0..classes).map(|c| target(row, c) * (log_sum - x[c])).sum::<f64>();
                        f64::from(row_weights[row]) * sum
                    })
                    .collect::<Vec<_>>()
            };
            // dense, labels, class weights (8 bytes each), smoothing, classes; the numbers of the buffers plus one
            let pointers: [u64; 3] = if is_dense { [5, 0, 0] } else { [0, 5, 6] };
            let targets = struct_of(&pointers, &[smoothing.to_bits(), classes as u32]);
            let first = if is_dense { A::F32(&dense) } else { A::U32(&labels) };
            let saved = vec![f32::NAN; 3 * rows];
            let out = host.launch_with(
                "cross_entropy",
                (rows as u32, 1),
                32,
                &[
                    A::F32(&vec![f32::NAN; rows]),
                    A::F32(&saved),
                    A::F32(&logits),
                    A::F32(&row_weights),
                    targets.clone(),
                ],
                &[first.clone(), A::F32(&class_weights)],
            );
            assert_close("loss", &out[0].f32(), &loss(&wide(&logits)));
            let saved = out[1].f32();
            let pointers: [u64; 3] = if is_dense { [6, 0, 0] } else { [0, 6, 7] };
            let targets = struct_of(&pointers, &[smoothing.to_bits(), classes as u32]);
            let out = host.launch_with(
                "cross_entropy_backward",
                (rows as u32, 1),
                32,
                &[
                    A::F32(&vec![1.0; n]),
                    A::F32(&dloss),
                    A::F32(&saved),
                    A::F32(&logits),
                    A::F32(&row_weights),
                    targets,
                ],
                &[first.clone(), A::F32(&class_weights)],
            );
            let want = differences(&logits, |x| dot(&loss(x), &dloss));
            assert_close("dlogits", &out[0].f32(), &want.iter().map(|g| 1.0 + g).collect::<Vec<_>>());
        }
    }
}

/// One step in double precision on (gates of x, product of h, h before, c before): h and c one after the other. The gates
/// of x are by step, not by place; a GRU has neither c nor a fourth gate of x.
struct Recurrent {
    is_lstm: bool,
    bias: Vec<f32>,
    bias_hn: Vec<f32>,
    lengths: [u32; 4],
    step: u32,
    hidden: usize,
}

impl Recurrent {
    fn step(&self, gates: &[f64], product: &[f64], h: &[f64], c: &[f64]) -> Vec<f64> {
        let (batch, hidden) = (self.lengths.len(), self.hidden);
        let count = if self.is_lstm { 4 } else { 3 };
        let mut out = vec![0.0; 2 * batch * hidden];
        for (row, unit) in cells((batch, hidden)) {
            let i = row * hidden + unit;
            let x = |k: usize| gates[row * 4 * hidden + k * hidden + unit] + f64::from(self.bias[k * hidden + unit]);
            let p = |k: usize| product[row * count * hidden + k * hidden + unit];
            let z = |k: usize| x(k) + p(k);
            (out[i], out[batch * hidden + i]) = if self.step >= self.lengths[row] {
                (h[i], c[i])
            } else if self.is_lstm {
                let cell = sigmoid(z(1)) * c[i] + sigmoid(z(0)) * z(2).tanh();
                (sigmoid(z(3)) * cell.tanh(), cell)
            } else {
                let new = (x(2) + sigmoid(z(0)) * (p(2) + f64::from(self.bias_hn[unit]))).tanh();
                ((1.0 - sigmoid(z(1))) * new + sigmoid(z(1)) * h[i], c[i])
            };
        }
        out
    }

    /// The row of (batch, length) that a sequence is at.
    fn place(&self, row: usize, length: usize, reverse: bool) -> usize {
        let (own, step) = (self.lengths[row] as usize, self.step as usize);
        row * length + if reverse && step < own { own - 1 - step } else { step }
    }
}

#[test]
fn a_step_of_a_recurrent_layer() {
    let Some(mut host) = Host::start() else { return };
    for (is_lstm, reverse) in [(true, false), (true, true), (false, false), (false, true)] {
        let (batch, hidden, length, step, offset) = (4usize, 5usize, 9usize, 4u32, 5usize);
        let (n, count, width) = (batch * hidden, if is_lstm { 4 } else { 3 }, 2 * hidden);
        let (bias, bias_hn) = (numbers(2, 4 * hidden), numbers(12, hidden));
        let layer = Recurrent { is_lstm, bias, bias_hn, lengths: [9, 4, 5, 7], step, hidden };
        let name = |kind: &str| format!("{}_step{kind}", if is_lstm { "lstm" } else { "gru" });
        let (all, product) = (numbers(1, batch * length * 4 * hidden), numbers(8, count * n));
        let (h, c) = (numbers(3, n), numbers(4, n));
        let (dh, dc, dy) = (numbers(5, n), numbers(6, n), numbers(7, batch * length * width));
        // What a row holds of a tensor in (batch, length), by step.
        let of_step = |all: &[f32], width: usize, from: usize, count: usize| -> Vec<f32> {
            let row = |row: usize| {
                let start = layer.place(row, length, reverse) * width + from;
                all[start..start + count].to_vec()
            };
            (0..batch).flat_map(row).collect()
        };
        let gates = of_step(&all, 4 * hidden, 0, 4 * hidden);
        let fields = [batch, hidden, length, width, offset, step as usize, usize::from(reverse), 0];
        let fields = fields.map(|n| n as u32);
        // gates, recurrent, h, c, h before, c before, y, saved h, saved c, bias, bias_hn, lengths
        let unset = |len: usize| vec![f32::NAN; len];
        let (states, outputs, saved) = (unset(n), unset(batch * length * width), unset(batch * length * hidden));
        let out = host.launch_with(
            &name(""),
            (2, 1),
            16,
            &[struct_of(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], &fields)],
            &[
                A::F32(&all),
                A::F32(&product),
                A::F32(&states),
                A::F32(&states),
                A::F32(&h),
                A::F32(&c),
                A::F32(&outputs),
                A::F32(&saved),
                A::F32(&saved),
                A::F32(&layer.bias),
                A::F32(&layer.bias_hn),
                A::U32(&layer.lengths),
            ],
        );
        let want = layer.step(&wide(&gates), &wide(&product), &wide(&h), &wide(&c));
        assert_close("h", &out[2].f32(), &want[..n]);
        if is_lstm {
            assert_close("c", &out[3].f32(), &want[n..]);
        }
        // Nothing comes out of a sequence that is over.
        let is_over = |i: usize| step >= layer.lengths[i / hidden];
        let y: Vec<f64> = (0..n).map(|i| if is_over(i) { 0.0 } else { want[i] }).collect();
        assert_close("y", &of_step(&out[6].f32(), width, offset, hidden), &y);

        // gates, gates of the step, dh, dc before, dh, dc after, dy, saved h, saved c, lengths
        let back = host.launch_with(
            &name("_backward"),
            (2, 1),
            16,
            &[struct_of(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], &fields)],
            &[
                A::F32(&out[0].f32()),
                A::F32(&unset(count * n)),
                A::F32(&unset(n)),
                A::F32(&unset(n)),
                A::F32(&dh),
                A::F32(&dc),
                A::F32(&dy),
                A::F32(&out[7].f32()),
                A::F32(&out[8].f32()),
                A::U32(&layer.lengths),
            ],
        );
        let dy = of_step(&dy, width, offset, hidden);
        let whole = (0..n).map(|i| if is_over(i) { dh[i] } else { dh[i] + dy[i] });
        let both: Vec<f32> = whole.chain(if is_lstm { dc.clone() } else { vec![0.0; n] }).collect();
        let loss = |gates: &[f64], product: &[f64], h: &[f64], c: &[f64]| dot(&layer.step(gates, product, h, c), &both);
        let (g, p, h, c) = (wide(&gates), wide(&product), wide(&h), wide(&c));
        let dgates = of_step(&back[0].f32(), 4 * hidden, 0, 4 * hidden);
        let want = differences(&gates, |gates| loss(gates, &p, &h, &c));
        for (row, gate) in dgates.chunks(4 * hidden).zip(want.chunks(4 * hidden)) {
            assert_close("dgates", &row[..count * hidden], &gate[..count * hidden]);
        }
        assert_close("dproduct", &back[1].f32(), &differences(&product, |product| loss(&g, product, &h, &c)));
        let narrow = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
        assert_close("dh", &back[2].f32(), &differences(&narrow(&h), |h| loss(&g, &p, h, &c)));
        if is_lstm {
            assert_close("dc", &back[3].f32(), &differences(&narrow(&c), |c| loss(&g, &p, &h, c)));
        }
    }
}

#[test]
fn layer_norm() {
    let Some(mut host) = Host::start() else { return };
    let (rows, columns, epsilon, rows_per_block) = (11, 45, 1e-3f32, 4);
    let n = rows * columns;
    let (x, gamma, beta, dy) = (numbers(1, n), numbers(2, columns), numbers(3, columns), numbers(4, n));
    let forward = |x: &[f64], gamma: &[f64], beta: &[f64]| {
        let mut y = Vec::new();
        for row in x.chunks(columns) {
            let mean = row.iter().sum::<f64>() / columns as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / columns as f64;
            let scale = 1.0 / (variance + f64::from(epsilon)).sqrt();
            y.extend((0..columns).map(|c| gamma[c] * (row[c] - mean) * scale + beta[c]));
        }
        y
    };
    let out = host.launch(
        "layer_norm",
        (rows as u32, 1),
        32,
        &[
            A::F32(&vec![f32::NAN; n]),
            A::F32(&vec![f32::NAN; 2 * rows]),
            A::F32(&x),
            A::F32(&gamma),
            A::F32(&beta),
            A::f32(epsilon),
            A::u32(columns as u32),
        ],
    );
    assert_close("y", &out[0].f32(), &forward(&wide(&x), &wide(&gamma), &wide(&beta)));
    let saved = out[1].f32();
    let out = host.launch(
        "layer_norm_backward",
        (rows as u32, 1),
        32,
        &[A::F32(&vec![1.0; n]), A::F32(&dy), A::F32(&x), A::F32(&saved), A::F32(&gamma), A::u32(columns as u32)],
    );
    let want = differences(&x, |x| dot(&forward(x, &wide(&gamma), &wide(&beta)), &dy));
    assert_close("dx", &out[0].f32(), &want.iter().map(|g| 1.0 + g).collect::<Vec<_>>());
    let chunks = rows.div_ceil(rows_per_block);
    let out = host.launch(
        "layer_norm_parameters",
        (columns.div_ceil(32) as u32, chunks as u32),
        64,
        &[
            A::F32(&vec![f32::NAN; chunks * columns]),
            A::F32(&vec![f32::NAN; chunks * columns]),
            A::F32(&dy),
            A::F32(&x),
            A::F32(&saved),
            A::u32(rows as u32),
            A::u32(columns as u32),
            A::u32(rows_per_block as u32),
            A::u32(0),
        ],
    );
    let whole = |partial: &[f32]| {
        (0..columns).map(|c| (0..chunks).map(|k| partial[k * columns + c]).sum()).collect::<Vec<f32>>()
    };
    let dgamma = differences(&gamma, |gamma| dot(&forward(&wide(&x), gamma, &wide(&beta)), &dy));
    let dbeta = differences(&beta, |beta| dot(&forward(&wide(&x), &wide(&gamma), beta), &dy));
    assert_close("dgamma", &whole(&out[0].f32()), &dgamma);
    assert_close("dbeta", &whole(&out[1].f32()), &dbeta);
}

#[test]
fn columns_of_joined_rows() {
    let Some(mut host) = Host::start() else { return };
    let (rows, width, total, start) = (7usize, 5usize, 11usize, 4usize);
    let (x, y) = (numbers(1, rows * width), numbers(2, rows * total));
    let place = |i: usize| i / width * total + start + i % width;
    let sizes = [A::u32(width as u32), A::u32(total as u32), A::u32(start as u32), A::u64((rows * width) as u64)];
    let arguments = [&[A::F32(&y), A::F32(&x)][..], &sizes].concat();
    let out = host.launch("join_columns", (2, 1), 32, &arguments);
    let mut want = wide(&y);
    (0..x.len()).for_each(|i| want[place(i)] = f64::from(x[i]));
    assert_close("y", &out[0].f32(), &want);
    let arguments = [&[A::F32(&x), A::F32(&y)][..], &sizes].concat();
    let out = host.launch("join_columns_backward", (2, 1), 32, &arguments);
    let want: Vec<f64> = (0..x.len()).map(|i| f64::from(x[i]) + f64::from(y[place(i)])).collect();
    assert_close("dx", &out[0].f32(), &want);
}

#[test]
fn slopes_of_temporal_classification() {
    let Some(mut host) = Host::start() else { return };
    let (rows, width) = (3usize, 13usize);
    let (dx, dy, slopes) = (numbers(1, rows * width), numbers(2, rows), numbers(3, rows * width));
    let arguments = [A::F32(&dx), A::F32(&dy), A::F32(&slopes), A::u32(width as u32), A::u64((rows * width) as u64)];
    let out = host.launch("ctc_backward", (2, 1), 32, &arguments);
    let want: Vec<f64> =
        (0..dx.len()).map(|i| f64::from(dx[i]) + f64::from(dy[i / width]) * f64::from(slopes[i])).collect();
    assert_close("dx", &out[0].f32(), &want);
}

#[test]
fn embeddings() {
    let Some(mut host) = Host::start() else { return };
    let (vocabulary, width) = (6, 10);
    let ids = [4u32, 1, 4, 0, 1, 4];
    let (table, dy) = (numbers(1, vocabulary * width), numbers(2, ids.len() * width));
    let rows = ids.len();
    let out = host.launch(
        "embedding",
        (2, 1),
        32,
        &[
            A::F32(&vec![f32::NAN; rows * width]),
            A::F32(&table),
            A::U32(&ids),
            A::u32(rows as u32),
            A::u32(width as u32),
        ],
    );
    let want = ids.iter().flat_map(|id| wide(&table[*id as usize * width..][..width])).collect::<Vec<_>>();
    assert_close("y", &out[0].f32(), &want);
    let (unique, starts, places) = ([0u32, 1, 4], [0u32, 1, 3, 6], [3u32, 1, 4, 0, 2, 5]);
    let out = host.launch(
        "embedding_backward",
        (1, 2),
        32,
        &[
            A::F32(&vec![1.0; table.len()]),
            A::F32(&dy),
            A::U32(&unique),
            A::U32(&starts),
            A::U32(&places),
            A::u32(3),
            A::u32(width as u32),
        ],
    );
    let mut want = vec![1.0; table.len()];
    for (row, id) in ids.iter().enumerate() {
        for c in 0..width {
            want[*id as usize * width + c] += f64::from(dy[row * width + c]);
        }
    }
    assert_close("dtable", &out[0].f32(), &want);
}

/// The negative log-likelihoods of a conditional random field by the scores of all paths. The parameters are transitions,
/// starts and ends, one after another.
fn all_paths(
    emissions: &[f64],
    parameters: &[f64],
    tags: &[u32],
    lengths: &[u32],
    (length, count): (usize, usize),
) -> Vec<f64> {
    let (between, ends) = parameters.split_at(count * count);
    let row = |row: usize| {
        let (emissions, steps) = (&emissions[row * length * count..], lengths[row] as usize);
        let score = |path: &dyn Fn(usize) -> usize| {
            let emitted = (0..steps).map(|step| emissions[step * count + path(step)]).sum::<f64>();
            let moved = (1..steps).map(|step| between[path(step - 1) * count + path(step)]).sum::<f64>();
            emitted + moved + ends[path(0)] + ends[count + path(steps - 1)]
        };
        if steps == 0 {
            return 0.0;
        }
        let paths = 0..count.pow(steps as u32);
        let all = paths.map(|path| score(&|step| path / count.pow(step as u32) % count).exp()).sum::<f64>();
        all.ln() - score(&|step| tags[row * length + step] as usize)
    };
    (0..lengths.len()).map(row).collect()
}

#[test]
fn conditional_random_fields() {
    let Some(mut host) = Host::start() else { return };
    // Few tags; more than there are threads.
    for (lengths, length, count) in [(vec![5u32, 0, 3, 1], 5usize, 3usize), (vec![2, 1, 2], 2, 37)] {
        let batch = lengths.len();
        let n = batch * length * count;
        let (emissions, dloss) = (numbers(1, n), numbers(2, batch));
        let parameters = numbers(3, count * count + 2 * count);
        let (between, ends) = parameters.split_at(count * count);
        // What comes after a sequence's end is no tag.
        let tags = (0..batch * length).map(|i| {
            let is_real = i % length < lengths[i / length] as usize;
            if is_real { (7 * i + i * i) as u32 % count as u32 } else { u32::MAX }
        });
        let tags = tags.collect::<Vec<_>>();
        let unset = |len: usize| vec![f32::NAN; len];
        let (starts, ends) = ends.split_at(count);
        let of_field =
            [A::F32(&emissions), A::F32(between), A::F32(starts), A::F32(ends), A::U32(&lengths), A::U32(&tags)];
        let field = |first: u64| {
            struct_of(&std::array::from_fn::<_, 6, _>(|i| first + i as u64), &[length as u32, count as u32])
        };
        let (losses, alphas, offsets) = (unset(batch), unset(n), unset(batch * length));
        let out = host.launch_with(
            "crf",
            (batch as u32, 1),
            32,
            &[A::F32(&losses), A::F32(&alphas), A::F32(&offsets), field(4)],
            &of_field,
        );
        let loss =
            |emissions: &[f64], parameters: &[f64]| all_paths(emissions, parameters, &tags, &lengths, (length, count));
        assert_close("loss", &out[0].f32(), &loss(&wide(&emissions), &wide(&parameters)));

        let (alphas, offsets) = (out[1].f32(), out[2].f32());
        let arguments = [
            A::F32(&vec![1.0; n]),
            A::F32(&unset(2 * batch * count)),
            A::F32(&unset(n)),
            A::F32(&dloss),
            A::F32(&alphas),
            A::F32(&offsets),
            field(7),
        ];
        let out = host.launch_with("crf_backward", (batch as u32, 1), 32, &arguments, &of_field);
        let want = differences(&emissions, |emissions| dot(&loss(emissions, &wide(&parameters)), &dloss));
        assert_close("demissions", &out[0].f32(), &want.iter().map(|g| 1.0 + g).collect::<Vec<_>>());

        let (of_ends, after) = (out[1].f32(), out[2].f32());
        let (rows_per_block, blocks) = (2, (parameters.len() as u32).div_ceil(64));
        let chunks = batch.div_ceil(rows_per_block);
        let arguments = [
            A::F32(&unset(chunks * parameters.len())),
            A::F32(&dloss),
            A::F32(&alphas),
            A::F32(&after),
            A::F32(&of_ends),
            field(6),
            A::u32(batch as u32),
            A::u32(rows_per_block as u32),
        ];
        let out = host.launch_with("crf_transitions", (blocks, chunks as u32), 64, &arguments, &of_field);
        let partial = out[0].f32();
        let arguments = [
            A::F32(&vec![1.0; count * count]),
            A::F32(&vec![2.0; count]),
            A::F32(&vec![3.0; count]),
            A::F32(&partial),
            A::u32(count as u32),
            A::u32(chunks as u32),
        ];
        let out = host.launch("crf_parameters", (blocks, 1), 64, &arguments);
        let got = out[..3].iter().flat_map(|part| part.f32()).collect::<Vec<_>>();
        let mut want = differences(&parameters, |parameters| dot(&loss(&wide(&emissions), parameters), &dloss));
        for (i, want) in want.iter_mut().enumerate() {
            *want += [1.0, 2.0, 3.0][usize::from(i >= count * count) + usize::from(i >= count * count + count)];
        }
        assert_close("dparameters", &got, &want);
    }
}

#[test]
fn weights_of_attention() {
    let Some(mut host) = Host::start() else { return };
    // More keys than threads.
    let (batch, heads, queries, keys, scale) = (2usize, 3usize, 4usize, 45usize, 0.7f32);
    let (rows, n) = (batch * heads * queries, batch * heads * queries * keys);
    let scores = numbers(1, n).iter().map(|x| 5.0 * x).collect::<Vec<_>>();
    let (key, threshold, factor) = (0x0123_4567_89ab_cdef_u64, 0x5000_0000u32, 1.5f32);
    for (lengths, causal, has_dropout) in [(None, 0u32, false), (Some([45u32, 0]), 0, true), (Some([2, 40]), 1, true)] {
        let end = |row: usize| {
            let end = lengths.map_or(keys, |lengths| lengths[row / queries / heads] as usize);
            if causal == 1 { end.min(row % queries + 1) } else { end }
        };
        let forward = |scores: &[f64]| {
            let mut weights = vec![0.0; n];
            for row in 0..rows {
                let seen = row * keys..row * keys + end(row);
                let total = scores[seen.clone()].iter().map(|x| (f64::from(scale) * x).exp()).sum::<f64>();
                seen.for_each(|i| weights[i] = (f64::from(scale) * scores[i]).exp() / total);
            }
            weights
        };
        let kept = |i: usize| match RandomStream::bits(key, i as u64) < threshold {
            _ if !has_dropout => 1.0,
            true => 0.0,
            false => f64::from(factor),
        };
        let drop = |weights: Vec<f64>| weights.iter().enumerate().map(|(i, w)| w * kept(i)).collect::<Vec<_>>();
        // The lengths' pointer, then numbers.
        let seen = |buffer: u64| {
            let mut bytes = if lengths.is_some() { buffer } else { 0 }.to_ne_bytes().to_vec();
            bytes.extend(key.to_ne_bytes());
            let numbers = [heads as u32, queries as u32, keys as u32, causal, threshold, factor.to_bits()];
            bytes.extend(cuda_host::ints(&numbers));
            A::Struct(bytes, vec![0])
        };
        let further = [A::U32(lengths.as_ref().map_or(&[0, 0], |lengths| lengths))];
        let unset = vec![f32::NAN; n];
        let dropped = || if has_dropout { A::F32(&unset) } else { A::Null };
        let number = u64::from(has_dropout);
        let arguments = [A::F32(&scores), dropped(), A::f32(scale), seen(2 + number)];
        let out = host.launch_with("attention_weights", (rows as u32, 1), 32, &arguments, &further);
        let weights = out[0].f32();
        assert_close("weights", &weights, &forward(&wide(&scores)));
        if has_dropout {
            assert_close("what is left", &out[1].f32(), &drop(forward(&wide(&scores))));
        }
        let dleft = numbers(2, n);
        let arguments = [A::F32(&dleft), dropped(), A::F32(&weights), A::f32(scale), seen(3 + number)];
        let out = host.launch_with("attention_weights_backward", (rows as u32, 1), 32, &arguments, &further);
        let want = differences(&scores, |scores| dot(&drop(forward(scores)), &dleft));
        assert_close("dscores", &out[0].f32(), &want);
        if has_dropout {
            assert_close("what is left", &out[1].f32(), &drop(forward(&wide(&scores))));
        }
    }
}

#[test]
fn addresses_of_matrices() {
    let Some(mut host) = Host::start() else { return };
    let (heads, count) = (3, 6);
    let [base, outer, inner] = [[1 << 40, 4096, 8], [100, 7, 1 << 33], [5, 1, 2]];
    let sixes = [base, outer, inner].map(|three| [three[0], three[1], three[2], 0, 0, 0u64]);
    let mut bytes = sixes.iter().flatten().flat_map(|x| x.to_ne_bytes()).collect::<Vec<_>>();
    bytes.extend(cuda_host::ints(&[3, heads, count, 0]));
    let unset = vec![u32::MAX; 2 * 18];
    let out = host.launch("matrices", (2, 1), 16, &[A::U32(&unset), A::Value(bytes)]);
    let got = out[0].u32().chunks(2).map(|two| u64::from(two[0]) | u64::from(two[1]) << 32).collect::<Vec<_>>();
    let want = (0..3usize)
        .flat_map(|array| (0..6).map(move |i| base[array] + 4 * (outer[array] * (i / 3) + inner[array] * (i % 3))));
    assert_eq!(got, want.collect::<Vec<_>>());
}

#[test]
fn batch_norm() {
    let Some(mut host) = Host::start() else { return };
    let (batch, channels, pixels, epsilon, per_block) = (5usize, 40usize, 7usize, 1e-2f32, 9u64);
    let (n, count) = (batch * channels * pixels, batch * pixels);
    let channel = |i: usize| i / pixels % channels;
    // Channels far from 0, in parts that do not divide them.
    let x = numbers(1, n).iter().enumerate().map(|(i, x)| x + channel(i) as f32).collect::<Vec<_>>();
    let (gamma, beta, dy) = (numbers(2, channels), numbers(3, channels), numbers(4, n));
    let parts = count.div_ceil(per_block as usize);
    let planes = || A::Value(cuda_host::ints(&[batch as u32, channels as u32, pixels as u32]));
    let (unset, of_parts) = (vec![f32::NAN; channels], vec![f32::NAN; 2 * channels * parts]);
    let grid = (channels as u32, parts as u32);
    let out = host.launch("channel_moments", grid, 16, &[A::F32(&of_parts), A::F32(&x), planes(), A::u64(per_block)]);
    let partial = out[0].f32();
    let arguments =
        [A::F32(&unset), A::F32(&unset), A::F32(&partial), planes(), A::u64(per_block), A::u32(parts as u32)];
    let out = host.launch("channel_statistics", (2, 1), 32, &arguments);
    let of_batch = |x: &[f64]| {
        let mean_of = |f: &dyn Fn(usize) -> f64| -> Vec<f64> {
            let mut means = vec![0.0; channels];
            (0..n).for_each(|i| means[channel(i)] += f(i) / count as f64);
            means
        };
        let mean = mean_of(&|i| x[i]);
        let variance = mean_of(&|i| (x[i] - mean[channel(i)]).powi(2));
        [mean, variance]
    };
    let (mean, variance) = (out[0].f32(), out[1].f32());
    let [want_mean, want_variance] = of_batch(&wide(&x));
    assert_close("mean", &mean, &want_mean);
    assert_close("variance", &variance, &want_variance);

    let forward = |x: &[f64], gamma: &[f64], beta: &[f64], [mean, variance]: &[Vec<f64>; 2]| {
        let normal = |i: usize| (x[i] - mean[channel(i)]) / (variance[channel(i)] + f64::from(epsilon)).sqrt();
        (0..n).map(|i| normal(i) * gamma[channel(i)] + beta[channel(i)]).collect::<Vec<_>>()
    };
    let blocks = (n.div_ceil(32) as u32, 1);
    let out = host.launch(
        "batch_norm",
        blocks,
        32,
        &[
            A::F32(&vec![f32::NAN; n]),
            A::F32(&x),
            A::F32(&mean),
            A::F32(&variance),
            A::F32(&gamma),
            A::F32(&beta),
            A::f32(epsilon),
            planes(),
            A::u64(n as u64),
        ],
    );
    let statistics = [want_mean, want_variance];
    assert_close("y", &out[0].f32(), &forward(&wide(&x), &wide(&gamma), &wide(&beta), &statistics));

    let out = host.launch(
        "batch_norm_sums",
        grid,
        16,
        &[
            A::F32(&of_parts),
            A::F32(&dy),
            A::F32(&x),
            A::F32(&mean),
            A::F32(&variance),
            A::f32(epsilon),
            planes(),
            A::u64(per_block),
        ],
    );
    let partial = out[0].f32();
    let out = host.launch(
        "batch_norm_parameters",
        (2, 1),
        32,
        &[
            A::F32(&vec![1.0; channels]),
            A::F32(&vec![2.0; channels]),
            A::F32(&vec![f32::NAN; 2 * channels]),
            A::F32(&partial),
            A::u32(channels as u32),
            A::u32(parts as u32),
        ],
    );
    let totals = out[2].f32();
    let dgamma = differences(&gamma, |gamma| dot(&forward(&wide(&x), gamma, &wide(&beta), &statistics), &dy));
    let dbeta = differences(&beta, |beta| dot(&forward(&wide(&x), &wide(&gamma), beta, &statistics), &dy));
    assert_close("dgamma", &out[0].f32(), &dgamma.iter().map(|g| 1.0 + g).collect::<Vec<_>>());
    assert_close("dbeta", &out[1].f32(), &dbeta.iter().map(|g| 2.0 + g).collect::<Vec<_>>());

    for is_given in [false, true] {
        let out = host.launch(
            "batch_norm_backward",
            blocks,
            32,
            &[
                A::F32(&vec![1.0; n]),
                A::F32(&dy),
                A::F32(&x),
                A::F32(&mean),
                A::F32(&variance),
                A::F32(&gamma),
                A::F32(&totals),
                A::f32(epsilon),
                A::f32(if is_given { 0.0 } else { 1.0 / count as f32 }),
                planes(),
                A::u64(n as u64),
            ],
        );
        let want = differences(&x, |x| {
            let of_x = if is_given { statistics.clone() } else { of_batch(x) };
            dot(&forward(x, &wide(&gamma), &wide(&beta), &of_x), &dy)
        });
        assert_close("dx", &out[0].f32(), &want.iter().map(|g| 1.0 + g).collect::<Vec<_>>());
    }
}

/// The argument of the optimisers' kernels for these lengths, and the number of blocks; buffers are, for each tensor in
/// turn, its parameter, gradient and two states.
fn tensors(lengths: &[usize], block: usize) -> (A<'static>, u32) {
    const MOST: usize = 48;
    let mut bytes = vec![0u8; MOST * (4 * 8 + 8 + 4) + 8];
    let mut offsets = Vec::new();
    let mut blocks = 0;
    for (k, length) in lengths.iter().enumerate() {
        for part in 0..4 {
            let at = (part * MOST + k) * 8;
            bytes[at..at + 8].copy_from_slice(&((4 * k + part + 1) as u64).to_ne_bytes());
            offsets.push(at as u32);
        }
        bytes[(4 * MOST + k) * 8..][..8].copy_from_slice(&(*length as u64).to_ne_bytes());
        blocks += length.div_ceil(block) as u32;
        bytes[5 * MOST * 8 + k * 4..][..4].copy_from_slice(&blocks.to_ne_bytes());
    }
    bytes[5 * MOST * 8 + MOST * 4..][..4].copy_from_slice(&(lengths.len() as u32).to_ne_bytes());
    (A::Struct(bytes, offsets), blocks)
}

#[test]
fn optimizers() {
    let Some(mut host) = Host::start() else { return };
    let lengths = [40, 1, 100];
    let values = lengths.iter().enumerate().map(|(k, n)| {
        let of = |part: u64| numbers(10 * k as u64 + part, *n);
        [of(1), of(2), of(3), of(4).iter().map(|x| x.abs()).collect()]
    });
    let values = values.collect::<Vec<[Vec<f32>; 4]>>();
    let buffers = values.iter().flatten().map(|values| A::F32(values)).collect::<Vec<_>>();
    let (table, blocks) = tensors(&lengths, 32);
    let (rate, decay) = (0.05f32, 0.02f32);
    let r = f64::from(rate);
    let d = f64::from(decay);

    for (momentum, nesterov, l2, decoupled) in [(0.0, 0, 0.0, 0.0), (0.9, 0, decay, 0.0), (0.9, 1, 0.0, decay)] {
        let out = host.launch_with(
            "sgd_update",
            (blocks, 1),
            32,
            &[table.clone(), A::f32(rate), A::f32(momentum), A::u32(nesterov), A::f32(l2), A::f32(decoupled)],
            &buffers,
        );
        let mu = f64::from(momentum);
        for (k, [p, g, v, _]) in values.iter().enumerate() {
            let (mut want_p, mut want_v) = (Vec::new(), Vec::new());
            for i in 0..p.len() {
                let (p, v) = (f64::from(p[i]), f64::from(v[i]));
                let g = f64::from(g[i]) + f64::from(l2) * p;
                let new = if momentum == 0.0 { v } else { mu * v + g };
                let update = match (momentum == 0.0, nesterov) {
                    (true, _) => g,
                    (false, 0) => new,
                    _ => g + mu * new,
                };
                want_p.push(p - r * update - r * f64::from(decoupled) * p);
                want_v.push(new);
            }
            assert_close("parameter", &out[4 * k].f32(), &want_p);
            assert_close("velocity", &out[4 * k + 2].f32(), &want_v);
        }
    }

    let (b1, b2, epsilon, step) = (0.9f64, 0.99f64, 1e-3f64, 3);
    let (c1, c2) = (1.0 - b1.powi(step), 1.0 - b2.powi(step));
    for (l2, decoupled) in [(0.0, 0.0), (decay, 0.0), (0.0, decay)] {
        let numbers = [f64::from(rate), b1, b2, epsilon, c1, c2].map(|x| A::f32(x as f32));
        let arguments = std::iter::once(table.clone()).chain(numbers).chain([A::f32(l2), A::f32(decoupled)]);
        let out = host.launch_with("adam_update", (blocks, 1), 32, &arguments.collect::<Vec<_>>(), &buffers);
        for (k, [p, g, m, v]) in values.iter().enumerate() {
            let mut want = Vec::new();
            for i in 0..p.len() {
                let p = f64::from(p[i]);
                let g = f64::from(g[i]) + f64::from(l2) * p;
                let m = b1 * f64::from(m[i]) + (1.0 - b1) * g;
                let v = b2 * f64::from(v[i]) + (1.0 - b2) * g * g;
                let decayed = if decoupled == 0.0 { p } else { p - r * d * p };
                want.push(decayed - r * (m / c1) / ((v / c2).sqrt() + epsilon));
            }
            assert_close("parameter", &out[4 * k].f32(), &want);
        }
    }
}

#[test]
fn lamb() {
    let Some(mut host) = Host::start() else { return };
    let lengths = [40, 1, 100, 3];
    let values = lengths.iter().enumerate().map(|(k, n)| {
        let of = |part: u64| numbers(10 * k as u64 + part, *n);
        // The last tensor is zero: its ratio is 1.
        let zero = if k == 3 { 0.0 } else { 1.0 };
        let parameter = of(1).iter().map(|x| zero * x).collect();
        [parameter, of(2), of(3), of(4).iter().map(|x| x.abs()).collect()]
    });
    let values = values.collect::<Vec<[Vec<f32>; 4]>>();
    let (table, blocks) = tensors(&lengths, 32);
    let (rate, b1, b2, epsilon, decay, step) = (0.05f64, 0.9f64, 0.99f64, 1e-3f64, 0.02f64, 3);
    let (c1, c2) = (1.0 / (1.0 - b1.powi(step)), 1.0 / (1.0 - b2.powi(step)));
    let numbers = [rate, b1, b2, epsilon, c1, c2, decay].map(|x| (x as f32).to_bits());
    let rule = || A::Value(cuda_host::ints(&numbers));
    // Sums in double precision are two places each.
    let partial = vec![u32::MAX; 4 * blocks as usize];
    let buffers = values.iter().flatten().map(|values| A::F32(values)).collect::<Vec<_>>();
    // The tensors are numbered after the buffers of the arguments.
    let table = |before: u64| match &table {
        A::Struct(bytes, offsets) => {
            let mut bytes = bytes.clone();
            for at in offsets {
                let at = *at as usize;
                let number = u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
                bytes[at..at + 8].copy_from_slice(&(number + before).to_ne_bytes());
            }
            A::Struct(bytes, offsets.clone())
        }
        _ => panic!("a table is a struct"),
    };
    let out = host.launch_with("lamb_moments", (blocks, 1), 32, &[table(1), rule(), A::U32(&partial)], &buffers);
    let (partial, moved) = (out[0].u32(), out[1..].iter().map(|buffer| buffer.f32()).collect::<Vec<_>>());
    let moved = moved.iter().map(|values| A::F32(values)).collect::<Vec<_>>();
    let arguments = [table(2), A::U32(&partial), A::F32(&[f32::NAN; 4])];
    let out = host.launch_with("lamb_ratios", (4, 1), 32, &arguments, &moved);
    let ratios = out[1].f32();
    let out = host.launch_with("lamb_update", (blocks, 1), 32, &[table(1), rule(), A::F32(&ratios)], &moved);
    for (k, [p, g, m, v]) in values.iter().enumerate() {
        let (p, g, m, v) = (wide(p), wide(g), wide(m), wide(v));
        let m = m.iter().zip(&g).map(|(m, g)| b1 * m + (1.0 - b1) * g).collect::<Vec<_>>();
        let v = v.iter().zip(&g).map(|(v, g)| b2 * v + (1.0 - b2) * g * g).collect::<Vec<_>>();
        let u = (0..p.len()).map(|i| m[i] * c1 / ((v[i] * c2).sqrt() + epsilon) + decay * p[i]).collect::<Vec<_>>();
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let ratio = if k == 3 { 1.0 } else { norm(&p) / norm(&u) };
        let want = p.iter().zip(&u).map(|(p, u)| p - rate * ratio * u).collect::<Vec<_>>();
        let [parameter, first, second] = [0, 2, 3].map(|part| out[1 + 4 * k + part].f32());
        assert_close("parameter", &parameter, &want);
        assert_close("first moment", &first, &m);
        assert_close("second moment", &second, &v);
    }
}

#[test]
fn the_probe() {
    let Some(mut host) = Host::start() else { return };
    let out = host.launch("probe", (1, 1), 32, &[A::F32(&[1.0, -3.0]), A::u64(2)]);
    assert_eq!(out[0].f32(), [3.0, -5.0]);
}
