// The linear-chain conditional random field (Lafferty et al. 2001) by the forward-backward algorithm, a block for each
// sequence, its threads over the tags.

// Emissions are (batch, length, count), tags (batch, length), transitions (count, count) from a tag to the next. Only the
// first `lengths[row]` steps of a row are real.
struct Field {
  const float *emissions, *between, *start, *end;
  const u32 *lengths, *tags;
  u32 length, count;
};

// log(sum over i of exp(a[i] + b[i * stride])), of which the largest term is taken out.
DEVICE float log_sum_exp(const float *a, const float *b, u32 stride, u32 count) {
  float top = LOWEST, sum = 0.0f;
  for (u32 i = 0; i < count; ++i) {
    const float x = a[i] + b[(u64)i * stride];
    if (x > top || x != x) top = x;
  }
  for (u32 i = 0; i < count; ++i) sum += expf(a[i] + b[(u64)i * stride] - top);
  return top + logf(sum);
}

// `alphas` receives the logarithms of the sums over paths up to each step and tag, and `offsets` what was taken out of
// them at each step so that the largest is 0.
KERNEL(crf, float *loss, float *alphas, float *offsets, Field f) {
  SHARED float values[MAX_THREADS], maximum;
  SHARED double scores[MAX_THREADS];
  const u32 steps = f.lengths[blockIdx.x], count = f.count;
  const u64 row = (u64)blockIdx.x * f.length;
  const u32 *tags = f.tags + row;
  const float *emissions = f.emissions + row * count;
  alphas += row * count;
  offsets += row;
  for (u32 step = 0; step < steps; ++step) {
    const float *emission = emissions + (u64)step * count;
    float *alpha = alphas + (u64)step * count;
    PHASE {
      float top = LOWEST;
      for (u32 to = threadIdx.x; to < count; to += blockDim.x) {
        const float x = emission[to] + (step ? log_sum_exp(alpha - count, f.between + to, count, count) : f.start[to]);
        if (x > top || x != x) top = x;
        alpha[to] = x;
      }
      values[threadIdx.x] = top;
    }
    block_max(values);
    PHASE {
      for (u32 to = threadIdx.x; to < count; to += blockDim.x) alpha[to] -= values[0];
      if (threadIdx.x == 0) offsets[step] = values[0];
    }
  }
  // The sum over the last step with its ends; the score of the tags is taken off in double precision, since both grow
  // with the length.
  const float *last = alphas + (u64)(steps ? steps - 1 : 0) * count;
  const u32 ends = steps ? count : 0;
  PHASE {
    float top = LOWEST;
    for (u32 tag = threadIdx.x; tag < ends; tag += blockDim.x) {
      const float x = last[tag] + f.end[tag];
      if (x > top || x != x) top = x;
    }
    values[threadIdx.x] = top;
  }
  block_max(values);
  PHASE {
    if (threadIdx.x == 0) maximum = values[0];
  }
  PHASE {
    float sum = 0.0f;
    for (u32 tag = threadIdx.x; tag < ends; tag += blockDim.x) sum += expf(last[tag] + f.end[tag] - maximum);
    values[threadIdx.x] = sum;
    double score = 0.0;
    for (u32 step = threadIdx.x; step < steps; step += blockDim.x) {
      const u32 tag = tags[step];
      score += (double)offsets[step] - emissions[(u64)step * count + tag];
      score -= step ? f.between[(u64)tags[step - 1] * count + tag] : f.start[tag];
      if (step == steps - 1) score -= f.end[tag];
    }
    scores[threadIdx.x] = score;
  }
  block_sum(values);
  block_sum(scores);
  PHASE {
    if (threadIdx.x == 0) loss[blockIdx.x] = steps ? (float)(scores[0] + maximum + logf(values[0])) : 0.0f;
  }
}

// Adds the gradient of the emissions: the probability of each tag, less 1 for that of the path. `ends` receives those of
// the first and the last step of each row. `after` receives, for each step and tag, the logarithm of the sum over the
// paths from there on, so that exp(alpha[from] + between[from][to] + after[to]) is the probability of a pair.
KERNEL(crf_backward, float *demissions, float *ends, float *after, const float *dloss, const float *alphas,
       const float *offsets, Field f) {
  SHARED float values[MAX_THREADS], maximum;
  const u32 steps = f.lengths[blockIdx.x], count = f.count;
  const u64 row = (u64)blockIdx.x * f.length;
  const float weight = dloss[blockIdx.x];
  ends += 2 * (u64)blockIdx.x * count;
  PHASE {
    for (u32 tag = threadIdx.x; tag < count; tag += blockDim.x) {
      if (steps == 0) ends[tag] = ends[count + tag] = 0.0f;
      else after[(row + steps - 1) * count + tag] = f.end[tag];
    }
  }
  for (u32 left = steps; left > 0; --left) {
    const u32 step = left - 1;
    const u64 at = (row + step) * count;
    // What is in `after` so far does not hold the step's emission yet, and may be any constant off.
    PHASE {
      float top = LOWEST;
      for (u32 tag = threadIdx.x; tag < count; tag += blockDim.x) {
        const float x = alphas[at + tag] + after[at + tag];
        if (x > top || x != x) top = x;
      }
      values[threadIdx.x] = top;
    }
    block_max(values);
    PHASE {
      if (threadIdx.x == 0) maximum = values[0];
    }
    PHASE {
      float sum = 0.0f;
      for (u32 tag = threadIdx.x; tag < count; tag += blockDim.x)
        sum += expf(alphas[at + tag] + after[at + tag] - maximum);
      values[threadIdx.x] = sum;
    }
    block_sum(values);
    PHASE {
      const float total = maximum + logf(values[0]) + offsets[row + step];
      for (u32 tag = threadIdx.x; tag < count; tag += blockDim.x) {
        const u64 i = at + tag;
        const float taken = f.tags[row + step] == tag ? 1.0f : 0.0f;
        const float gradient = weight * (expf(alphas[i] + after[i] - maximum) / values[0] - taken);
        demissions[i] += gradient;
        if (step == 0) ends[tag] = gradient;
        if (left == steps) ends[count + tag] = gradient;
        after[i] += f.emissions[i] - total;
      }
    }
    if (step) PHASE {
        for (u32 from = threadIdx.x; from < count; from += blockDim.x)
          after[at - count + from] = log_sum_exp(after + at, f.between + (u64)from * count, 1, count);
      }
  }
}

// A thread for each gradient of a parameter: those of the transitions, then of the starts, then of the ends. Blocks (x, y)
// sum rows_per_block sequences into row y of `partial`.
KERNEL(crf_transitions, float *partial, const float *dloss, const float *alphas, const float *after, const float *ends,
       Field f, u32 batch, u32 rows_per_block) {
  PHASE {
    const u32 count = f.count;
    const u64 i = element(), pairs = (u64)count * count, all = pairs + 2 * count;
    if (i < all) {
      float sum = 0.0f;
      for (u32 row = blockIdx.y * rows_per_block; row < smaller(batch, (blockIdx.y + 1) * rows_per_block); ++row) {
        if (i >= pairs) {
          sum += ends[2 * (u64)row * count + (i - pairs)];
          continue;
        }
        const u32 to = modulo(i, count), from = (u32)quotient(i, count);
        const u32 *tags = f.tags + (u64)row * f.length;
        const float *alpha = alphas + (u64)row * f.length * count + from, *next = after + (u64)row * f.length * count + to;
        const float between = f.between[i];
        float probability = 0.0f;
        for (u32 step = 1; step < f.lengths[row]; ++step) {
          probability += expf(alpha[(u64)(step - 1) * count] + between + next[(u64)step * count]);
          if (tags[step - 1] == from && tags[step] == to) probability -= 1.0f;
        }
        sum += dloss[row] * probability;
      }
      partial[blockIdx.y * all + i] = sum;
    }
  }
}

// Adds the `chunks` rows of partial sums to the gradients.
KERNEL(crf_parameters, float *dbetween, float *dstart, float *dend, const float *partial, u32 count, u32 chunks) {
  PHASE {
    const u64 i = element(), pairs = (u64)count * count, all = pairs + 2 * count;
    if (i < all) {
      float sum = 0.0f;
      for (u32 chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * all + i];
      if (i < pairs) dbetween[i] += sum;
      else if (i < pairs + count) dstart[i - pairs] += sum;
      else dend[i - pairs - count] += sum;
    }
  }
}
