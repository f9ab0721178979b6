//! Inputs that are nearly right.

use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Larger inputs tell nothing more, and take longer.
const LARGEST: usize = 1 << 16;

/// Where off-by-one and overflow live.
const BOUNDARIES: [u64; 20] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    (1 << 62) + 1,
    u64::MAX >> 1,
    u64::MAX,
];

/// What the texts among the inputs are made of.
const WORDS: [&str; 44] = [
    "\"F32\"",
    "\"F64\"",
    "\"f32\"",
    "\"i64\"",
    "\"text\"",
    "\"dtype\":",
    "\"shape\":",
    "\"dims\":",
    "\"name\":",
    "\"inputs\":",
    "\"data_offsets\":",
    "[0,0]",
    "[0,8]",
    "[]",
    "{}",
    "null",
    "true",
    "0",
    "-0",
    "-1",
    "1.5",
    "1e400",
    "NaN",
    "\"NaN\"",
    "\"-inf\"",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "9007199254740993",
    "2.2250738585072014e-308",
    "..",
    "/../",
    "\\u0000",
    "\\ud800",
    "\\n",
    "\u{1f30a}",
    "__metadata__",
    "\"step\":",
    "\"values\":",
    "\"source\":",
    "\n",
    "[[[[[[[[[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":{\"a\":",
    ",",
];

/// Changes inputs, from a seed.
pub(super) struct Mutator {
    random: ChaCha8Rng,
}

impl Mutator {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed) }
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.random.gen_range(0..bound.max(1))
    }

    /// True once in so many times.
    pub(super) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(super) fn pick<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        choices.choose(&mut self.random).unwrap()
    }

    /// A number, often one that is near an end.
    pub(super) fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.random.next_u64(),
            1 => self.random.next_u64() >> self.below(64),
            2 => self.pick(&BOUNDARIES).wrapping_add(self.random.next_u64() % 3).wrapping_sub(1),
            _ => *self.pick(&BOUNDARIES),
        }
    }

    /// A place in so many bytes, and how many to take there.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let longest = if self.one_in(4) { length - start } else { (length - start).min(16) };
        start..start + self.below(longest + 1)
    }

    /// Changes bytes in one to eight ways; `other` is what pieces are taken from.
    pub(super) fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..1 << self.below(4) {
            self.once(bytes, other);
            bytes.truncate(LARGEST);
        }
    }

    fn once(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let length = bytes.len();
        match self.below(12) {
            0 | 1 if length > 0 => bytes[self.below(length)] ^= 1 << self.below(8),
            2 if length > 0 => bytes[self.below(length)] = self.random.next_u32() as u8,
            3 => bytes.truncate(self.below(length + 1)),
            4 => {
                let new: Vec<u8> = (0..self.below(17)).map(|_| self.random.next_u32() as u8).collect();
                let at = self.below(length + 1);
                bytes.splice(at..at, new);
            }
            5 => drop(bytes.drain(self.range(length))),
            6 => {
                let piece = bytes[self.range(length)].to_vec();
                let at = self.below(length + 1);
                bytes.splice(at..at, piece);
            }
            7 => {
                let piece = other[self.range(other.len())].to_vec();
                bytes.splice(self.range(length), piece);
            }
            8 | 9 => {
                let (number, width) = (self.number(), 1 << self.below(4));
                let new = if self.one_in(3) {
                    number.to_be_bytes()[8 - width..].to_vec()
                } else {
                    number.to_le_bytes()[..width].to_vec()
                };
                let at = self.below(length + 1);
                bytes.splice(at..(at + width).min(length), new);
            }
            10 => {
                let word = self.pick(&WORDS).as_bytes().to_vec();
                let at = self.below(length + 1);
                let over = if self.one_in(2) { at..at } else { at..(at + word.len()).min(length) };
                bytes.splice(over, word);
            }
            // A number in a text.
            _ => {
                let digits: Vec<usize> = (0..length).filter(|&i| bytes[i].is_ascii_digit()).take(4096).collect();
                if !digits.is_empty() {
                    let start = *self.pick(&digits);
                    let end = (start..length).find(|&i| !bytes[i].is_ascii_digit()).unwrap_or(length);
                    let number = self.number().to_string();
                    bytes.splice(start..end, number.into_bytes());
                }
            }
        }
    }
}
