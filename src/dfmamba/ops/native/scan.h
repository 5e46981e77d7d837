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

/* Channels c .. c + n - 1 of one batch, with everything that does not change over time. */
typedef struct {
  int64_t c, n, states;
  const float *u, *delta, *z, *B, *C;
  vf bias, skip;
} FN(Block);

INLINE FN(Block) FN(block)(const Scan *s, FN(Item) w, int64_t index, float *A) {
  int64_t width = s->channels / s->groups, inside = index * LANES;
  FN(Block) k;
  k.c = w.group * width + inside;
  k.n = width - inside < LANES ? width - inside : LANES;
  k.states = s->states;
  k.u = s->u.at + w.batch * s->u.batch + k.c;
  k.delta = s->delta.at + w.batch * s->delta.batch + k.c;
  k.z = s->z.at ? s->z.at + w.batch * s->z.batch + k.c : 0;
  k.B = s->B.at + w.batch * s->B.batch + w.group * s->B.group;
  k.C = s->C.at + w.batch * s->C.batch + w.group * s->C.group;
  k.bias = s->bias ? FN(load_n)(s->bias + k.c, k.n) : FN(all)(0.0f);
  k.skip = s->D ? FN(load_n)(s->D + k.c, k.n) : FN(all)(0.0f);
  for (int64_t state = 0; state < s->states; state++)
    for (int64_t lane = 0; lane < LANES; lane++)
      A[state * LANES + lane] = lane < k.n ? s->A[(k.c + lane) * s->states + state] : 0.0f;
  return k;
}

INLINE vf FN(step)(const Scan *s, const FN(Block) *k, int64_t t, vf *slope) {
  vf raw = FN(load_n)(k->delta + t * s->delta.step, k->n) + k->bias;
  *slope = FN(all)(1.0f);
  return s->softplus ? FN(softplus)(raw, slope) : raw;
}

static void FN(scan_forward)(const Scan *s, ScanResult *r, int64_t parts, float *scratch, int64_t index) {
  FN(Item) w = FN(item)(s, index, parts);
  float *A = scratch, *h = scratch + s->states * LANES;
  for (int64_t b = w.first; b < w.last; b++) {
    FN(Block) k = FN(block)(s, w, b, A);
    memset(h, 0, (size_t)(s->states * LANES) * sizeof(float));
    for (int64_t t = 0; t < s->length; t++) {
      vf slope, dt = FN(step)(s, &k, t, &slope);
      vf u = FN(load_n)(k.u + t * s->u.step, k.n), in = dt * u, out = k.skip * u;
      const float *B = k.B + t * s->B.step, *C = k.C + t * s->C.step;
      for (int64_t n = 0; n < s->states; n++) {
        vf now = FN(exponential)(dt * FN(load)(A + n * LANES)) * FN(load)(h + n * LANES) + in * B[n * s->B.state];
        FN(store)(h + n * LANES, now);
        out += now * C[n * s->C.state];
      }
      if (k.z) {
        vf z = FN(load_n)(k.z + t * s->z.step, k.n);
        out *= z * FN(sigmoid)(z);
      }
      FN(store_n)(r->y + (w.batch * s->length + t) * s->channels + k.c, out, k.n);
    }
    for (int64_t lane = 0; lane < k.n; lane++)
      for (int64_t n = 0; n < s->states; n++)
        r->last[(w.batch * s->channels + k.c + lane) * s->states + n] = h[n * LANES + lane];
  }
}

/* States of the steps from .. to - 1 into `states` (and their decays), starting from h, which moves along. */
INLINE void FN(advance)(const Scan *s, const FN(Block) *k, const float *A, float *h, int64_t from, int64_t to,
                        float *states, float *decays) {
  int64_t size = s->states * LANES;
  for (int64_t t = from; t < to; t++) {
    vf slope, dt = FN(step)(s, k, t, &slope), in = dt * FN(load_n)(k->u + t * s->u.step, k->n);
    const float *B = k->B + t * s->B.step;
    for (int64_t n = 0; n < s->states; n++) {
      vf decay = FN(exponential)(dt * FN(load)(A + n * LANES));
      vf now = decay * FN(load)(h + n * LANES) + in * B[n * s->B.state];
      FN(store)(h + n * LANES, now);
      if (states) {
        FN(store)(states + (t - from) * size + n * LANES, now);
        FN(store)(decays + (t - from) * size + n * LANES, decay);
      }
    }
  }
}

/* Only the states at the start of each chunk are kept; those inside are computed again on the way back. */
static void FN(scan_backward)(const Scan *s, const ScanGradient *g, int64_t chunk, float *scratch, int64_t index) {
  FN(Item) w = FN(item)(s, index, g->parts);
  int64_t size = s->states * LANES, chunks = (s->length + chunk - 1) / chunk, part = index % g->parts;
  float *A = scratch, *h = A + size, *carry = h + size, *grad_A = carry + size, *starts = grad_A + size;
  float *states = starts + chunks * size, *decays = states + chunk * size;
  float *grad_B = g->B + ((part * s->batch + w.batch) * s->groups + w.group) * s->length * s->states;
  float *grad_C = g->C + ((part * s->batch + w.batch) * s->groups + w.group) * s->length * s->states;
  memset(grad_B, 0, (size_t)(s->length * s->states) * sizeof(float));
  memset(grad_C, 0, (size_t)(s->length * s->states) * sizeof(float));
  for (int64_t b = w.first; b < w.last; b++) {
    FN(Block) k = FN(block)(s, w, b, A);
    memset(h, 0, (size_t)size * sizeof(float));
    memset(grad_A, 0, (size_t)size * sizeof(float));
    for (int64_t i = 0; i + 1 < chunks; i++) {
      memcpy(starts + i * size, h, (size_t)size * sizeof(float));
      FN(advance)(s, &k, A, h, i * chunk, (i + 1) * chunk, 0, 0);
    }
    memcpy(starts + (chunks - 1) * size, h, (size_t)size * sizeof(float));
    for (int64_t n = 0; n < s->states; n++)
      for (int64_t lane = 0; lane < LANES; lane++)
        carry[n * LANES + lane] =
            g->grad_last && lane < k.n ? g->grad_last[(w.batch * s->channels + k.c + lane) * s->states + n] : 0.0f;
    vf grad_skip = FN(all)(0.0f), grad_bias = FN(all)(0.0f);
    for (int64_t i = chunks - 1; i >= 0; i--) {
      int64_t from = i * chunk, to = from + chunk < s->length ? from + chunk : s->length;
      memcpy(h, starts + i * size, (size_t)size * sizeof(float));
      FN(advance)(s, &k, A, h, from, to, states, decays);
      for (int64_t t = to - 1; t >= from; t--) {
        const float *now = states + (t - from) * size, *decay = decays + (t - from) * size;
        const float *before = t > from ? now - size : starts + i * size;
        const float *B = k.B + t * s->B.step, *C = k.C + t * s->C.step;
        int64_t row = (w.batch * s->length + t) * s->channels + k.c;
        vf slope, dt = FN(step)(s, &k, t, &slope), u = FN(load_n)(k.u + t * s->u.step, k.n), in = dt * u;
        vf grad = FN(load_n)(g->grad_y.at + w.batch * g->grad_y.batch + t * g->grad_y.step + k.c, k.n);
        if (k.z) {
          vf z = FN(load_n)(k.z + t * s->z.step, k.n), gate = FN(sigmoid)(z), out = k.skip * u;
          for (int64_t n = 0; n < s->states; n++) out += FN(load)(now + n * LANES) * C[n * s->C.state];
          FN(store_n)(g->z + row, grad * out * gate * (1.0f + z * (1.0f - gate)), k.n);
          grad *= z * gate;
        }
        vf grad_u = grad * k.skip, grad_dt = FN(all)(0.0f);
        grad_skip += grad * u;
        for (int64_t n = 0; n < s->states; n++) {
          vf pull = FN(load)(carry + n * LANES) + grad * C[n * s->C.state];
          vf kept = pull * FN(load)(decay + n * LANES), moved = kept * FN(load)(before + n * LANES);
          grad_C[t * s->states + n] += FN(total)(grad * FN(load)(now + n * LANES));
          grad_B[t * s->states + n] += FN(total)(pull * in);
          FN(store)(grad_A + n * LANES, FN(load)(grad_A + n * LANES) + moved * dt);
          grad_u += pull * dt * B[n * s->B.state];
          grad_dt += moved * FN(load)(A + n * LANES) + pull * u * B[n * s->B.state];
          FN(store)(carry + n * LANES, kept);
        }
        grad_dt *= slope;
        grad_bias += grad_dt;
        FN(store_n)(g->u + row, grad_u, k.n);
        FN(store_n)(g->delta + row, grad_dt, k.n);
      }
    }
    FN(store_n)(g->D + w.batch * s->channels + k.c, grad_skip, k.n);
    FN(store_n)(g->bias + w.batch * s->channels + k.c, grad_bias, k.n);
    for (int64_t lane = 0; lane < k.n; lane++)
      for (int64_t n = 0; n < s->states; n++)
        g->A[(w.batch * s->channels + k.c + lane) * s->states + n] = grad_A[n * LANES + lane];
  }
}
