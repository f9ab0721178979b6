// One step of a recurrent layer; the matrix products are made outside. What belongs to a step of a sequence is in rows
// (sequence, place), where the place of a backward direction counts from the sequence's own end. Sequences that are over
// at this step carry their state along, and have zeros in the place of this number, which no step of theirs uses.

struct Step {
  float *gates;           // (batch, length, 4 * hidden): x·W_ihᵀ, to be overwritten by the activated gates
  const float *recurrent; // (batch, gates * hidden): h·W_hhᵀ, or null where h is zero
  float *h, *c;           // (batch, hidden): the states after the step; c only of an LSTM
  const float *h_before, *c_before; // the states before it, which may be the same memory, or null for zeros
  float *y;                         // (batch, length, width): receives h from `offset` on
  float *saved_h, *saved_c;         // (batch, length, hidden): receive the states before the step; both may be null
  const float *bias;                // (gates * hidden)
  const float *bias_hn;             // (hidden), of a GRU
  const u32 *lengths;
  u32 batch, hidden, length, width, offset, step, reverse, unused;
};

struct StepBack {
  float *gates;      // (batch, length, 4 * hidden): the activated gates, to be overwritten by the gradient before that
  float *step_gates; // (batch, gates * hidden): receives those of this step that belong to h·W_hhᵀ
  float *dh, *dc;    // (batch, hidden): receive the gradient of the states before the step, but for that through W_hh
  const float *dh_after, *dc_after; // that of the states after it, which may be the same memory
  const float *dy;                  // (batch, length, width)
  const float *saved_h, *saved_c;
  const u32 *lengths;
  u32 batch, hidden, length, width, offset, step, reverse, unused;
};

// The row of (batch, length) that a sequence is at; says whether it is a real step.
template <class Any> DEVICE bool place(const Any &s, u32 row, u64 *at) {
  const u32 length = s.lengths[row];
  const bool real = s.step < length;
  *at = (u64)row * s.length + (real && s.reverse ? length - 1 - s.step : s.step);
  return real;
}

// An LSTM (Hochreiter and Schmidhuber 1997) with gates in PyTorch's order: input, forget, cell, output.
KERNEL(lstm_step, Step s) {
  PHASE {
    const u64 i = element();
    if (i < (u64)s.batch * s.hidden) {
      const u32 row = (u32)(i / s.hidden), unit = (u32)(i % s.hidden);
      u64 at;
      const bool real = place(s, row, &at);
      float *gate = s.gates + at * 4 * s.hidden + unit;
      const float *product = s.recurrent ? s.recurrent + (u64)row * 4 * s.hidden + unit : 0;
      float h = s.h_before ? s.h_before[i] : 0.0f, c = s.c_before ? s.c_before[i] : 0.0f;
      if (s.saved_h) s.saved_h[at * s.hidden + unit] = real ? h : 0.0f;
      if (s.saved_c) s.saved_c[at * s.hidden + unit] = c;
      float z[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (real) {
        for (u32 k = 0; k < 4; ++k)
          z[k] = gate[k * s.hidden] + (product ? product[k * s.hidden] : 0.0f) + s.bias[k * s.hidden + unit];
        for (u32 k = 0; k < 4; ++k) z[k] = k == 2 ? tanhf(z[k]) : sigmoid(z[k]);
        c = z[1] * c + z[0] * z[2];
        h = z[3] * tanhf(c);
      }
      for (u32 k = 0; k < 4; ++k) gate[k * s.hidden] = z[k];
      s.h[i] = h;
      s.c[i] = c;
      s.y[at * s.width + s.offset + unit] = real ? h : 0.0f;
    }
  }
}

KERNEL(lstm_step_backward, StepBack s) {
  PHASE {
    const u64 i = element();
    if (i < (u64)s.batch * s.hidden) {
      const u32 row = (u32)(i / s.hidden), unit = (u32)(i % s.hidden);
      u64 at;
      const bool real = place(s, row, &at);
      float *gate = s.gates + at * 4 * s.hidden + unit;
      float *step_gate = s.step_gates + (u64)row * 4 * s.hidden + unit;
      float dh = s.dh_after[i], dc = s.dc_after[i], dz[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (real) {
        const float in = gate[0], forget = gate[s.hidden], cell = gate[2 * s.hidden], out = gate[3 * s.hidden];
        const float old = s.saved_c[at * s.hidden + unit], squashed = tanhf(forget * old + in * cell);
        dh += s.dy[at * s.width + s.offset + unit];
        dc += dh * out * (1.0f - squashed * squashed);
        dz[0] = dc * cell * in * (1.0f - in);
        dz[1] = dc * old * forget * (1.0f - forget);
        dz[2] = dc * in * (1.0f - cell * cell);
        dz[3] = dh * squashed * out * (1.0f - out);
        dc *= forget;
        dh = 0.0f;
      }
      for (u32 k = 0; k < 4; ++k) gate[k * s.hidden] = step_gate[k * s.hidden] = dz[k];
      s.dh[i] = dh;
      s.dc[i] = dc;
    }
  }
}

// A GRU (Cho et al. 2014, with PyTorch's reset after the product) with gates reset, update, new. The fourth place of
// `gates` keeps the new gate's share of h, h·W_hnᵀ + bias_hn.
KERNEL(gru_step, Step s) {
  PHASE {
    const u64 i = element();
    if (i < (u64)s.batch * s.hidden) {
      const u32 row = (u32)(i / s.hidden), unit = (u32)(i % s.hidden);
      u64 at;
      const bool real = place(s, row, &at);
      float *gate = s.gates + at * 4 * s.hidden + unit;
      const float *product = s.recurrent ? s.recurrent + (u64)row * 3 * s.hidden + unit : 0;
      float h = s.h_before ? s.h_before[i] : 0.0f;
      if (s.saved_h) s.saved_h[at * s.hidden + unit] = real ? h : 0.0f;
      float z[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (real) {
        for (u32 k = 0; k < 3; ++k) z[k] = gate[k * s.hidden] + s.bias[k * s.hidden + unit];
        for (u32 k = 0; k < 2; ++k) z[k] = sigmoid(z[k] + (product ? product[k * s.hidden] : 0.0f));
        z[3] = (product ? product[2 * s.hidden] : 0.0f) + s.bias_hn[unit];
        z[2] = tanhf(z[2] + z[0] * z[3]);
        h = (1.0f - z[1]) * z[2] + z[1] * h;
      }
      for (u32 k = 0; k < 4; ++k) gate[k * s.hidden] = z[k];
      s.h[i] = h;
      s.y[at * s.width + s.offset + unit] = real ? h : 0.0f;
    }
  }
}

KERNEL(gru_step_backward, StepBack s) {
  PHASE {
    const u64 i = element();
    if (i < (u64)s.batch * s.hidden) {
      const u32 row = (u32)(i / s.hidden), unit = (u32)(i % s.hidden);
      u64 at;
      const bool real = place(s, row, &at);
      float *gate = s.gates + at * 4 * s.hidden + unit;
      float *step_gate = s.step_gates + (u64)row * 3 * s.hidden + unit;
      float dh = s.dh_after[i], dz[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (real) {
        const float reset = gate[0], update = gate[s.hidden], fresh = gate[2 * s.hidden], share = gate[3 * s.hidden];
        dh += s.dy[at * s.width + s.offset + unit];
        dz[1] = dh * (s.saved_h[at * s.hidden + unit] - fresh) * update * (1.0f - update);
        dz[2] = dh * (1.0f - update) * (1.0f - fresh * fresh);
        dz[0] = dz[2] * share * reset * (1.0f - reset);
        dz[3] = dz[2] * reset;
        dh *= update;
      }
      for (u32 k = 0; k < 4; ++k) gate[k * s.hidden] = dz[k];
      step_gate[0] = dz[0];
      step_gate[s.hidden] = dz[1];
      step_gate[2 * s.hidden] = dz[3];
      s.dh[i] = dh;
    }
  }
}
