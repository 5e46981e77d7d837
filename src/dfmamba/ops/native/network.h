/* The steps of a whole network in inference, for one instruction set: included once per set with FN(name) and with
 * ROWS and PANELS, the pixels and the vectors of output channels of a tile that its registers hold. Maps are
 * (pixel, channel). Each function does one thread's share of a step. */

INLINE vf FN(activated)(vf x, int64_t act) {
  if (act == ACT_RELU) return FN(pick)(x > 0, x, FN(all)(0.0f));
  if (act == ACT_SILU) return x * FN(sigmoid)(x);
  if (act == ACT_SIGMOID) return FN(sigmoid)(x);
  if (act == ACT_GELU) {
    /* erf to 1.5e-7: Abramowitz & Stegun, formula 7.1.26. */
    vf a = FN(pick)(x > 0, x, -x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * a);
    vf p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vf erf = 1.0f - p * t * FN(exponential)(-a * a);
    return 0.5f * x * (1.0f + FN(pick)(x > 0, erf, -erf));
  }
  return x;
}

/* ROWS pixels and `panels` vectors of channels. `at` holds, per tap of the kernel, where each pixel reads. */
INLINE void FN(tile)(const Step *s, const float *const *at, int64_t first, int64_t count, int64_t panel,
                     const int panels) {
  vf sum[ROWS][PANELS];
  int64_t depth = s->channels, taps = s->kernel * s->kernel, size = taps * depth * LANES;
  const float *weight = s->weight + panel * size;
#pragma GCC unroll 16
  for (int v = 0; v < panels; v++) {
    vf bias = s->bias ? FN(load)(s->bias + (panel + v) * LANES) : FN(all)(0.0f);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) sum[r][v] = bias;
  }
  for (int64_t tap = 0; tap < taps; tap++, at += ROWS, weight += depth * LANES) {
    const float *from[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) from[r] = at[r];
    for (int64_t i = 0; i < depth; i++) {
      vf w[PANELS];
#pragma GCC unroll 16
      for (int v = 0; v < panels; v++) w[v] = FN(load)(weight + v * size + i * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; r++) {
        vf x = FN(all)(from[r][i]);
#pragma GCC unroll 16
        for (int v = 0; v < panels; v++) sum[r][v] += x * w[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; r++) {
    if (r >= count) continue;
#pragma GCC unroll 16
    for (int v = 0; v < panels; v++) {
      int64_t c = (panel + v) * LANES, n = s->out_channels - c;
      vf x = sum[r][v];
      if (s->other) x += FN(load_n)(s->other + (first + r) * s->other_row + c, n);
      FN(store_n)(s->out + (first + r) * s->out_row + c, FN(activated)(x, s->act), n);
    }
  }
}

/* Dense convolution of 1x1 or 3x3, plus `other`, then the activation. Weights: (channels / 16, taps, channels in, 16). */
static void FN(convolve)(const Step *s, Share share, const float *zeros) {
  int64_t pixels = s->out_height * s->out_width, panels = (s->out_channels + LANES - 1) / LANES, pad = s->kernel / 2;
  const float *at[9 * ROWS];
  Range tiles = range_of((pixels + ROWS - 1) / ROWS, share);
  for (int64_t panel = 0; panel < panels; panel += PANELS)
    for (int64_t first = tiles.from * ROWS; first < tiles.to * ROWS; first += ROWS) {
      int64_t count = pixels - first < ROWS ? pixels - first : ROWS;
      for (int64_t r = 0; r < ROWS; r++) {
        int64_t p = first + (r < count ? r : count - 1);
        int64_t y = p / s->out_width * s->stride - pad, x = p % s->out_width * s->stride - pad;
        for (int64_t tap = 0; tap < s->kernel * s->kernel; tap++) {
          int64_t row = y + tap / s->kernel, column = x + tap % s->kernel;
          int inside = row >= 0 && row < s->height && column >= 0 && column < s->width;
          at[tap * ROWS + r] = inside ? s->in + (row * s->width + column) * s->in_row : zeros;
        }
      }
      int64_t left = panels - panel;
#if PANELS > 1
      if (left >= 4) FN(tile)(s, at, first, count, panel, 4);
      else if (left == 3) FN(tile)(s, at, first, count, panel, 3);
      else if (left == 2) FN(tile)(s, at, first, count, panel, 2);
      else
#endif
        (void)left, FN(tile)(s, at, first, count, panel, 1);
    }
}

/* A kernel per channel, stride 1, plus `other`, then the activation. Weights: (taps, channels). */
static void FN(depthwise)(const Step *s, Share share, const float *zeros) {
  int64_t pad = s->kernel / 2;
  Range rows = range_of(s->height, share);
  for (int64_t y = rows.from; y < rows.to; y++)
    for (int64_t c = 0; c < s->channels; c += LANES) {
      int64_t n = s->channels - c;
      for (int64_t x = 0; x < s->width; x += 4) {
        vf bias = s->bias ? FN(load_n)(s->bias + c, n) : FN(all)(0.0f), sum[4] = {bias, bias, bias, bias};
        for (int64_t i = 0; i < s->kernel; i++) {
          int64_t row = y + i - pad;
          if (row < 0 || row >= s->height) continue;
          const float *from = s->in + row * s->width * s->in_row + c;
          const float *weight = s->weight + i * s->kernel * s->channels + c;
          for (int64_t j = 0; j < s->kernel; j++) {
            vf w = FN(load_n)(weight + j * s->channels, n);
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++) {
              int64_t column = x + q + j - pad;
              int inside = column >= 0 && column < s->width;
              sum[q] += w * FN(load_n)(inside ? from + column * s->in_row : zeros, n);
            }
          }
        }
        for (int q = 0; q < 4 && x + q < s->width; q++) {
          int64_t p = y * s->width + x + q;
          vf value = sum[q];
          if (s->other) value += FN(load_n)(s->other + p * s->other_row + c, n);
          FN(store_n)(s->out + p * s->out_row + c, FN(activated)(value, s->act), n);
        }
      }
    }
}

/* Norm over the channels of each pixel, of `in` plus `other`. */
static void FN(normalise)(const Step *s, Share share) {
  Range pixels = range_of(s->height * s->width, share);
  for (int64_t p = pixels.from; p < pixels.to; p++) {
    const float *in = s->in + p * s->in_row, *other = s->other ? s->other + p * s->other_row : 0;
    float *out = s->out + p * s->out_row;
    vf sum = FN(all)(0.0f), square = sum;
    for (int64_t c = 0; c < s->channels; c += LANES) {
      int64_t n = s->channels - c;
      vf x = FN(load_n)(in + c, n);
      if (other) x += FN(load_n)(other + c, n);
      FN(store_n)(out + c, x, n);
      sum += x;
    }
    float mean = FN(total)(sum) / (float)s->channels;
    for (int64_t c = 0; c < s->channels; c += LANES) {
      int64_t n = s->channels - c;
      vf x = FN(load_n)(out + c, n) - mean;
      if (n >= LANES) {
        square += x * x;
      } else {
        for (int64_t i = 0; i < n; i++) square[0] += x[i] * x[i];
      }
    }
    float scale = 1.0f / __builtin_sqrtf(FN(total)(square) / (float)s->channels + s->number);
    for (int64_t c = 0; c < s->channels; c += LANES) {
      int64_t n = s->channels - c;
      vf x = (FN(load_n)(out + c, n) - mean) * scale;
      FN(store_n)(out + c, x * FN(load_n)(s->weight + c, n) + FN(load_n)(s->bias + c, n), n);
    }
  }
}

/* act(in) * other. */
static void FN(gate)(const Step *s, Share share) {
  Range pixels = range_of(s->height * s->width, share);
  for (int64_t p = pixels.from; p < pixels.to; p++)
    for (int64_t c = 0; c < s->channels; c += LANES) {
      int64_t n = s->channels - c;
      vf x = FN(activated)(FN(load_n)(s->in + p * s->in_row + c, n), s->act);
      FN(store_n)(s->out + p * s->out_row + c, x * FN(load_n)(s->other + p * s->other_row + c, n), n);
    }
}

/* act(in * weight + bias) per channel; bounded: weight tanh(in / weight) instead. */
static void FN(scale)(const Step *s, Share share, int bounded) {
  Range pixels = range_of(s->height * s->width, share);
  for (int64_t p = pixels.from; p < pixels.to; p++)
    for (int64_t c = 0; c < s->channels; c += LANES) {
      int64_t n = s->channels - c;
      vf x = FN(load_n)(s->in + p * s->in_row + c, n), w = FN(load_n)(s->weight + c, n);
      if (bounded) {
        vf e = FN(exponential)(2.0f * s->number * x / w);
        /* Beyond any float's exponential tanh is 1. */
        x = w * FN(pick)(e > 1e30f, FN(all)(1.0f), (e - 1.0f) / (e + 1.0f));
      } else {
        x = FN(activated)(x * w + FN(load_n)(s->bias + c, n), s->act) * s->number;
      }
      FN(store_n)(s->out + p * s->out_row + c, x, n);
    }
}

/* Nearest neighbour of a coarser map, plus `other`, then the activation. */
static void FN(enlarge)(const Step *s, Share share) {
  float down = (float)s->height / (float)s->out_height, along = (float)s->width / (float)s->out_width;
  Range pixels = range_of(s->out_height * s->out_width, share);
  for (int64_t p = pixels.from; p < pixels.to; p++) {
    int64_t y = (int64_t)((float)(p / s->out_width) * down), x = (int64_t)((float)(p % s->out_width) * along);
    y = y < s->height ? y : s->height - 1;
    x = x < s->width ? x : s->width - 1;
    for (int64_t c = 0; c < s->channels; c += LANES) {
      int64_t n = s->channels - c;
      vf value = FN(load_n)(s->in + (y * s->width + x) * s->in_row + c, n);
      if (s->other) value += FN(load_n)(s->other + p * s->other_row + c, n);
      FN(store_n)(s->out + p * s->out_row + c, FN(activated)(value, s->act), n);
    }
  }
}

/* Mean over all pixels. */
static void FN(average)(const Step *s, Share share) {
  int64_t pixels = s->height * s->width;
  Range blocks = range_of((s->channels + LANES - 1) / LANES, share);
  for (int64_t c = blocks.from * LANES; c < s->channels && c < blocks.to * LANES; c += LANES) {
    vf sum = FN(all)(0.0f);
    for (int64_t p = 0; p < pixels; p++) sum += FN(load_n)(s->in + p * s->in_row + c, s->channels - c);
    FN(store_n)(s->out + c, sum / (float)pixels, s->channels - c);
  }
}

static void FN(take)(const Step *s, Share share, const float *zeros, float *scratch) {
  Range items;
  int64_t blocks;
  switch (s->kind) {
    case STEP_CONVOLVE: FN(convolve)(s, share, zeros); break;
    case STEP_DEPTHWISE: FN(depthwise)(s, share, zeros); break;
    case STEP_NORM: FN(normalise)(s, share); break;
    case STEP_GATE: FN(gate)(s, share); break;
    case STEP_SCALE: FN(scale)(s, share, 0); break;
    case STEP_BOUND: FN(scale)(s, share, 1); break;
    case STEP_ENLARGE: FN(enlarge)(s, share); break;
    case STEP_AVERAGE: FN(average)(s, share); break;
    case STEP_SAMPLE:
      items = range_of(s->sample->height, share);
      for (int64_t row = items.from; row < items.to; row++) FN(sample_forward)(s->sample, s->out, scratch, row);
      break;
    case STEP_SCAN:
      blocks = (s->scan->channels + LANES - 1) / LANES;
      items = range_of(blocks, share);
      for (int64_t block = items.from; block < items.to; block++)
        FN(scan_forward)(s->scan, s->result, blocks, chunk_of(s->scan), scratch, block);
      break;
  }
}
