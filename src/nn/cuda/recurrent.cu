// One step of an LSTM (Hochreiter and Schmidhuber 1997; gates in PyTorch's order: input, forget, cell, output). The matrix
// products are made outside: `gates` comes with x·W_ihᵀ + h·W_hhᵀ of (batch, 4 * hidden), its rows gate_stride apart.
// Sequences that are over at this step carry their state along.

struct Step {
  u32 batch, hidden, gate_stride, state_stride, step;
};

DEVICE bool is_over(const u32 *lengths, u32 row, u32 step) { return lengths && step >= lengths[row]; }

// gates is overwritten by the activated gates; h and h_before have rows state_stride apart, c and c_before hidden apart.
// bias and lengths may be null, and h_before and c_before where they are zero.
KERNEL(lstm_step, float *gates, float *h, float *c, const float *h_before, const float *c_before, const float *bias,
       const u32 *lengths, Step s) {
  PHASE {
    const u64 i = element();
    if (i < (u64)s.batch * s.hidden) {
      const u32 row = (u32)(i / s.hidden), unit = (u32)(i % s.hidden);
      const u64 state = (u64)row * s.state_stride + unit;
      float *gate = gates + (u64)row * s.gate_stride + unit;
      const float old = c_before ? c_before[i] : 0.0f;
      if (is_over(lengths, row, s.step)) {
        for (u32 k = 0; k < 4; ++k) gate[k * s.hidden] = 0.0f;
        h[state] = h_before ? h_before[state] : 0.0f;
        c[i] = old;
      } else {
        float z[4];
        for (u32 k = 0; k < 4; ++k) z[k] = gate[k * s.hidden] + (bias ? bias[k * s.hidden + unit] : 0.0f);
        const float in = sigmoid(z[0]), forget = sigmoid(z[1]), cell = tanhf(z[2]), out = sigmoid(z[3]);
        gate[0] = in;
        gate[s.hidden] = forget;
        gate[2 * s.hidden] = cell;
        gate[3 * s.hidden] = out;
        c[i] = forget * old + in * cell;
        h[state] = out * tanhf(c[i]);
      }
    }
  }
}

// dh is the whole gradient of h (rows state_stride apart); dc comes with that of c from the later steps, and leaves with
// that of c_before. gates is overwritten by the gradient before the activations, and dh_before of (batch, hidden) by the
// part that a carried state hands on: the product dgates·W_hh is added to it outside.
KERNEL(lstm_step_backward, float *gates, float *dc, float *dh_before, const float *dh, const float *c,
       const float *c_before, const u32 *lengths, Step s) {
  PHASE {
    const u64 i = element();
    if (i < (u64)s.batch * s.hidden) {
      const u32 row = (u32)(i / s.hidden), unit = (u32)(i % s.hidden);
      float *gate = gates + (u64)row * s.gate_stride + unit;
      const float incoming = dh[(u64)row * s.state_stride + unit];
      if (is_over(lengths, row, s.step)) {
        for (u32 k = 0; k < 4; ++k) gate[k * s.hidden] = 0.0f;
        dh_before[i] = incoming;
      } else {
        const float in = gate[0], forget = gate[s.hidden], cell = gate[2 * s.hidden], out = gate[3 * s.hidden];
        const float squashed = tanhf(c[i]), old = c_before ? c_before[i] : 0.0f;
        const float dcell = dc[i] + incoming * out * (1.0f - squashed * squashed);
        gate[0] = dcell * cell * in * (1.0f - in);
        gate[s.hidden] = dcell * old * forget * (1.0f - forget);
        gate[2 * s.hidden] = dcell * in * (1.0f - cell * cell);
        gate[3 * s.hidden] = incoming * squashed * out * (1.0f - out);
        dc[i] = dcell * forget;
        dh_before[i] = 0.0f;
      }
    }
  }
}
