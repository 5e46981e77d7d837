/* The selective scan and its gradient, for one instruction set: included once per set with FN(name) defined. */

/* Items of work are (batch, group, part): a part is a run of the group's blocks of 16 channels. */
typedef struct {
  int64_t batch, group, first, last;
} FN(Item);

INLINE FN(Item) FN(item)(const Scan *s, int64_t index, int64_t parts) {
  int64_t width = s->channels / s->groups, blocks = (width + LANES - 1) / LANES;
  int64_t part = index % parts, rest = index / parts;
  FN(Item) w = {rest / s->groups, rest % s->groups, blocks * part / parts, blocks * (part + 1) / parts};
  return w;
}

/* A sequence as a block of channels sees it over a chunk of steps: in place, or moved into a tile. */
typedef struct {
  float *at;
  int64_t step;
} FN(View);

INLINE float *FN(start)(Rows r, int64_t batch, int64_t c, int64_t from) {
  return r.at + batch * r.batch + c * r.channel + from * r.step;
}

INLINE FN(View) FN(view)(Rows r, int64_t batch, int64_t c, int64_t from, float *tile) {
  FN(View) v = {0, 0};
  if (!r.at) return v;
  v.at = r.channel == 1 ? FN(start)(r, batch, c, from) : tile;
  v.step = r.channel == 1 ? r.step : LANES;
  return v;
}

INLINE FN(View) FN(read)(Rows r, int64_t batch, int64_t c, int64_t n, int64_t from, int64_t to, float *tile) {
  FN(View) v = FN(view)(r, batch, c, from, tile);
  if (r.at && v.at == tile)
    for (int64_t lane = 0; lane < n; lane++) {
      const float *row = FN(start)(r, batch, c + lane, from);
      for (int64_t t = 0; t < to - from; t++) tile[t * LANES + lane] = row[t * r.step];
    }
  return v;
}

INLINE void FN(write)(Rows r, FN(View) v, int64_t batch, int64_t c, int64_t n, int64_t from, int64_t to) {
  if (!r.at || r.channel == 1) return;
  for (int64_t lane = 0; lane < n; lane++) {
    float *row = FN(start)(r, batch, c + lane, from);
    for (int64_t t = 0; t < to - from; t++) row[t * r.step] = v.at[t * LANES + lane];
  }
}

/* Channels c .. c + n - 1 of one batch: what does not change over time, and the operands of the current chunk. */
typedef struct {
  int64_t batch, c, n, from, to;
  const float *B, *C;
  vf bias, skip;
  FN(View) u, delta, z;
} FN(Block);

INLINE FN(Block) FN(block)(const Scan *s, FN(Item) w, int64_t index, float *A) {
  int64_t width = s->channels / s->groups, inside = index * LANES;
  FN(Block) k;
  k.batch = w.batch;
  k.c = w.group * width + inside;
  k.n = width - inside < LANES ? width - inside : LANES;
  k.B = s->B.at + w.batch * s->B.batch + w.group * s->B.group;
  k.C = s->C.at + w.batch * s->C.batch + w.group * s->C.group;
  k.bias = s->bias ? FN(load_n)(s->bias + k.c, k.n) : FN(all)(0.0f);
  k.skip = s->D ? FN(load_n)(s->D + k.c, k.n) : FN(all)(0.0f);
  for (int64_t state = 0; state < s->states; state++)
    for (int64_t lane = 0; lane < LANES; lane++)
      A[state * LANES + lane] = lane < k.n ? s->A[(k.c + lane) * s->states + state] : 0.0f;
  return k;
}

/* Makes the steps from .. to - 1 the current chunk; tiles: three of them. */
INLINE void FN(turn_to)(const Scan *s, FN(Block) *k, int64_t from, int64_t to, float *tiles, int64_t tile) {
  k->from = from;
  k->to = to;
  k->u = FN(read)(s->u, k->batch, k->c, k->n, from, to, tiles);
  k->delta = FN(read)(s->delta, k->batch, k->c, k->n, from, to, tiles + tile);
  k->z = FN(read)(s->z, k->batch, k->c, k->n, from, to, tiles + 2 * tile);
}

INLINE vf FN(seen)(FN(View) v, int64_t i, int64_t n) { return FN(load_n)(v.at + i * v.step, n); }

INLINE vf FN(step)(const Scan *s, const FN(Block) *k, int64_t i, vf *slope) {
  vf raw = FN(seen)(k->delta, i, k->n) + k->bias;
  *slope = FN(all)(1.0f);
  return s->softplus ? FN(softplus)(raw, slope) : raw;
}

static void FN(scan_forward)(const Scan *s, const ScanResult *r, int64_t parts, int64_t chunk, float *scratch,
                             int64_t index) {
  FN(Item) w = FN(item)(s, index, parts);
  int64_t size = s->states * LANES, tile = chunk * LANES;
  float *A = scratch, *h = A + size, *tiles = h + size;
  for (int64_t b = w.first; b < w.last; b++) {
    FN(Block) k = FN(block)(s, w, b, A);
    memset(h, 0, (size_t)size * sizeof(float));
    for (int64_t from = 0; from < s->length; from += chunk) {
      int64_t to = from + chunk < s->length ? from + chunk : s->length;
      FN(turn_to)(s, &k, from, to, tiles, tile);
      FN(View) y = FN(view)(r->y, w.batch, k.c, from, tiles + 3 * tile);
      for (int64_t i = 0; i < to - from; i++) {
        vf slope, dt = FN(step)(s, &k, i, &slope), u = FN(seen)(k.u, i, k.n), in = dt * u, out = k.skip * u;
        const float *B = k.B + (from + i) * s->B.step, *C = k.C + (from + i) * s->C.step;
        for (int64_t n = 0; n < s->states; n++) {
          vf now = FN(exponential)(dt * FN(load)(A + n * LANES)) * FN(load)(h + n * LANES) + in * B[n * s->B.state];
          FN(store)(h + n * LANES, now);
          out += now * C[n * s->C.state];
        }
        if (k.z.at) {
          vf z = FN(seen)(k.z, i, k.n);
          out *= z * FN(sigmoid)(z);
        }
        FN(store_n)(y.at + i * y.step, out, k.n);
      }
      FN(write)(r->y, y, w.batch, k.c, k.n, from, to);
    }
    for (int64_t lane = 0; lane < k.n; lane++)
      for (int64_t n = 0; n < s->states; n++)
        r->last[(w.batch * s->channels + k.c + lane) * s->states + n] = h[n * LANES + lane];
  }
}

/* Moves h through the current chunk, keeping its states and decays if there is room for them. */
INLINE void FN(advance)(const Scan *s, const FN(Block) *k, const float *A, float *h, float *states, float *decays) {
  int64_t size = s->states * LANES;
  for (int64_t i = 0; i < k->to - k->from; i++) {
    vf slope, dt = FN(step)(s, k, i, &slope), in = dt * FN(seen)(k->u, i, k->n);
    const float *B = k->B + (k->from + i) * s->B.step;
    for (int64_t n = 0; n < s->states; n++) {
      vf decay = FN(exponential)(dt * FN(load)(A + n * LANES));
      vf now = decay * FN(load)(h + n * LANES) + in * B[n * s->B.state];
      FN(store)(h + n * LANES, now);
      if (states) {
        FN(store)(states + i * size + n * LANES, now);
        FN(store)(decays + i * size + n * LANES, decay);
      }
    }
  }
}

/* Only the states at the start of each chunk are kept; those inside are computed again on the way back. */
static void FN(scan_backward)(const Scan *s, const ScanGradient *g, int64_t chunk, float *scratch, int64_t index) {
  FN(Item) w = FN(item)(s, index, g->parts);
  int64_t size = s->states * LANES, tile = chunk * LANES, part = index % g->parts;
  int64_t chunks = (s->length + chunk - 1) / chunk;
  float *A = scratch, *h = A + size, *carry = h + size, *grad_A = carry + size, *starts = grad_A + size;
  float *states = starts + chunks * size, *decays = states + chunk * size, *tiles = decays + chunk * size;
  float *grad_B = g->B + ((part * s->batch + w.batch) * s->groups + w.group) * s->length * s->states;
  float *grad_C = g->C + ((part * s->batch + w.batch) * s->groups + w.group) * s->length * s->states;
  memset(grad_B, 0, (size_t)(s->length * s->states) * sizeof(float));
  memset(grad_C, 0, (size_t)(s->length * s->states) * sizeof(float));
  for (int64_t b = w.first; b < w.last; b++) {
    FN(Block) k = FN(block)(s, w, b, A);
    memset(h, 0, (size_t)size * sizeof(float));
    memset(grad_A, 0, (size_t)size * sizeof(float));
    for (int64_t i = 0; i < chunks; i++) {
      memcpy(starts + i * size, h, (size_t)size * sizeof(float));
      if (i + 1 == chunks) break;
      FN(turn_to)(s, &k, i * chunk, (i + 1) * chunk, tiles, tile);
      FN(advance)(s, &k, A, h, 0, 0);
    }
    for (int64_t n = 0; n < s->states; n++)
      for (int64_t lane = 0; lane < LANES; lane++)
        carry[n * LANES + lane] =
            g->grad_last && lane < k.n ? g->grad_last[(w.batch * s->channels + k.c + lane) * s->states + n] : 0.0f;
    vf grad_skip = FN(all)(0.0f), grad_bias = FN(all)(0.0f);
    for (int64_t c = chunks - 1; c >= 0; c--) {
      int64_t from = c * chunk, to = from + chunk < s->length ? from + chunk : s->length;
      memcpy(h, starts + c * size, (size_t)size * sizeof(float));
      FN(turn_to)(s, &k, from, to, tiles, tile);
      FN(advance)(s, &k, A, h, states, decays);
      FN(View) incoming = FN(read)(g->grad_y, w.batch, k.c, k.n, from, to, tiles + 3 * tile);
      FN(View) to_u = FN(view)(g->u, w.batch, k.c, from, tiles + 4 * tile);
      FN(View) to_delta = FN(view)(g->delta, w.batch, k.c, from, tiles + 5 * tile);
      FN(View) to_z = FN(view)(g->z, w.batch, k.c, from, tiles + 6 * tile);
      for (int64_t i = to - from - 1; i >= 0; i--) {
        const float *now = states + i * size, *decay = decays + i * size;
        const float *before = i > 0 ? now - size : starts + c * size;
        const float *B = k.B + (from + i) * s->B.step, *C = k.C + (from + i) * s->C.step;
        float *sum_B = grad_B + (from + i) * s->states, *sum_C = grad_C + (from + i) * s->states;
        vf slope, dt = FN(step)(s, &k, i, &slope), u = FN(seen)(k.u, i, k.n), in = dt * u;
        vf grad = FN(seen)(incoming, i, k.n);
        if (k.z.at) {
          vf z = FN(seen)(k.z, i, k.n), gate = FN(sigmoid)(z), out = k.skip * u;
          for (int64_t n = 0; n < s->states; n++) out += FN(load)(now + n * LANES) * C[n * s->C.state];
          FN(store_n)(to_z.at + i * to_z.step, grad * out * gate * (1.0f + z * (1.0f - gate)), k.n);
          grad *= z * gate;
        }
        vf grad_u = grad * k.skip, grad_dt = FN(all)(0.0f);
        grad_skip += grad * u;
        for (int64_t n = 0; n < s->states; n++) {
          vf pull = FN(load)(carry + n * LANES) + grad * C[n * s->C.state];
          vf kept = pull * FN(load)(decay + n * LANES), moved = kept * FN(load)(before + n * LANES);
          sum_C[n] += FN(total)(grad * FN(load)(now + n * LANES));
          sum_B[n] += FN(total)(pull * in);
          FN(store)(grad_A + n * LANES, FN(load)(grad_A + n * LANES) + moved * dt);
          grad_u += pull * dt * B[n * s->B.state];
          grad_dt += moved * FN(load)(A + n * LANES) + pull * u * B[n * s->B.state];
          FN(store)(carry + n * LANES, kept);
        }
        grad_dt *= slope;
        grad_bias += grad_dt;
        FN(store_n)(to_u.at + i * to_u.step, grad_u, k.n);
        FN(store_n)(to_delta.at + i * to_delta.step, grad_dt, k.n);
      }
      FN(write)(g->u, to_u, w.batch, k.c, k.n, from, to);
      FN(write)(g->delta, to_delta, w.batch, k.c, k.n, from, to);
      FN(write)(g->z, to_z, w.batch, k.c, k.n, from, to);
    }
    FN(store_n)(g->D + w.batch * s->channels + k.c, grad_skip, k.n);
    FN(store_n)(g->bias + w.batch * s->channels + k.c, grad_bias, k.n);
    for (int64_t lane = 0; lane < k.n; lane++)
      for (int64_t n = 0; n < s->states; n++)
        g->A[(w.batch * s->channels + k.c + lane) * s->states + n] = grad_A[n * LANES + lane];
  }
}
