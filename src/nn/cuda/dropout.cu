// Dropout whose mask is a function of (key, index), so that nothing is stored and a resumed run draws the same.

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
DEVICE u64 mix(u64 x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// RandomStream::bits of src/nn/random.rs.
DEVICE u32 random_bits(u64 key, u64 index) { return (u32)(mix(key + index * 0x9e3779b97f4a7c15ULL) >> 32); }

// y = scale * x where the element is kept, else 0; or y += that.
KERNEL(dropout, float *y, const float *x, u64 key, u32 threshold, float scale, u32 accumulate, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) {
      const float value = random_bits(key, i) < threshold ? 0.0f : scale * x[i];
      y[i] = accumulate ? y[i] + value : value;
    }
  }
}
