// Connectionist temporal classification: losses and slopes come from the host.

// dx[row] += dy[row] * slopes[row]
KERNEL(ctc_backward, float *dx, const float *dy, const float *slopes, u32 width, u64 count) {
  PHASE {
    const u64 i = element();
    if (i < count) dx[i] += dy[quotient(i, width)] * slopes[i];
  }
}
