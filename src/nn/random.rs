//! Random bits that a checkpoint can hold.

use std::sync::atomic::{AtomicU64, Ordering};

/// A source of random bits that is a pure function of (key, call, index), so that a resumed run draws what the unbroken
/// one would have drawn. [`Dropout`](crate::nn) holds one; hold one in your own layer and hand it to the visitor.
///
/// The estimator sets the key once from the run's seed and the layer's name, and saves and restores the count of calls.
#[derive(Debug, Default)]
pub struct RandomStream {
    key: AtomicU64,
    calls: AtomicU64,
}

impl RandomStream {
    /// A stream with key 0, to be keyed by the estimator.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keys the stream from the run's seed and the layer's name, and starts its calls at 0.
    pub fn set_key(&self, seed: u64, name: &str) {
        // FNV-1a over the name, mixed with the seed: fixed for ever, since saved runs depend on it.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        self.key.store(mix(seed ^ mix(hash)), Ordering::Relaxed);
        self.calls.store(0, Ordering::Relaxed);
    }

    /// How many times [`next_call`](Self::next_call) was called: what a checkpoint holds.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Goes on after `calls` calls, as a restored run does.
    pub fn set_calls(&self, calls: u64) {
        self.calls.store(calls, Ordering::Relaxed);
    }

    /// The key of the next call: 64 bits to combine with an element's index by [`bits`](Self::bits).
    pub fn next_call(&self) -> u64 {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        mix(self.key.load(Ordering::Relaxed).wrapping_add(mix(call ^ 0x9e37_79b9_7f4a_7c15)))
    }

    /// 32 random bits for element `index` of the call with this key. One SplitMix64 step; the CUDA kernels compute the same.
    pub fn bits(call_key: u64, index: u64) -> u32 {
        (mix(call_key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 32) as u32
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
