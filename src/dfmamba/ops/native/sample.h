/* Deformable sampling and its gradient, for one instruction set: included once per set with FN(name) defined. */

/* The four pixels around a position: rows of x to read, their weights, and how the weights change with it. */
typedef struct {
  int64_t pixel[4];
  float weight[4], down[4], along[4];
} FN(Corners);

INLINE float FN(at)(Field f, int64_t b, int64_t g, int64_t k, int64_t axis, int64_t p) {
  return f.at[b * f.batch + g * f.group + k * f.anchor + axis * f.axis + p * f.pixel];
}

INLINE FN(Corners) FN(corners)(const Sample *s, int64_t b, int64_t g, int64_t k, int64_t p) {
  float position[2] = {(float)(p / s->width) + s->grid[2 * k], (float)(p % s->width) + s->grid[2 * k + 1]};
  int64_t size[2] = {s->height, s->width}, low[2];
  float part[2], near[2], far[2];
  for (int axis = 0; axis < 2; axis++) {
    if (s->offsets.at) position[axis] += FN(at)(s->offsets, b, g, k, axis, p);
    float floor = __builtin_floorf(position[axis]);
    part[axis] = position[axis] - floor;
    /* Far outside, and not-a-number, must not become a wild index; the latter stays in the weights. */
    low[axis] = floor >= -1.0f && floor < (float)size[axis] ? (int64_t)floor : -2;
    near[axis] = low[axis] >= 0 ? 1.0f : 0.0f;
    far[axis] = low[axis] >= -1 && low[axis] + 1 < size[axis] ? 1.0f : 0.0f;
    if (part[axis] != part[axis]) near[axis] = far[axis] = 1.0f;
  }
  FN(Corners) c;
  for (int i = 0; i < 4; i++) {
    int bottom = i >> 1, right = i & 1;
    int64_t row = low[0] + bottom, column = low[1] + right;
    row = row < 0 ? 0 : row >= s->height ? s->height - 1 : row;
    column = column < 0 ? 0 : column >= s->width ? s->width - 1 : column;
    c.pixel[i] = row * s->width + column;
    float in_y = bottom ? far[0] : near[0], in_x = right ? far[1] : near[1];
    float y = (bottom ? part[0] : 1 - part[0]) * in_y, x = (right ? part[1] : 1 - part[1]) * in_x;
    c.weight[i] = y * x;
    c.down[i] = (bottom ? in_y : -in_y) * x;
    c.along[i] = (right ? in_x : -in_x) * y;
  }
  return c;
}

/* One row of pixels. */
static void FN(sample_forward)(const Sample *s, float *y, float *scratch, int64_t index) {
  int64_t b = index / s->height, pixels = s->height * s->width, width = s->channels / s->groups;
  const float *x = s->x + b * pixels * s->channels;
  FN(Corners) *corners = (FN(Corners) *)scratch;
  for (int64_t p = index % s->height * s->width, end = p + s->width; p < end; p++)
    for (int64_t g = 0; g < s->groups; g++) {
      for (int64_t k = 0; k < s->anchors; k++) {
        corners[k] = FN(corners)(s, b, g, k, p);
        if (!s->weights.at) continue;
        float factor = FN(at)(s->weights, b, g, k, 0, p);
        for (int i = 0; i < 4; i++) corners[k].weight[i] *= factor;
      }
      for (int64_t c = g * width, stop = c + width; c < stop; c += LANES) {
        int64_t n = stop - c < LANES ? stop - c : LANES;
        vf sum = FN(all)(0.0f);
        for (int64_t k = 0; k < s->anchors; k++) {
          vf value = FN(all)(0.0f);
          for (int i = 0; i < 4; i++)
            value += FN(load_n)(x + corners[k].pixel[i] * s->channels + c, n) * corners[k].weight[i];
          sum += s->weights.at ? value : value * FN(load_n)(s->fixed + k * s->channels + c, n);
        }
        FN(store_n)(y + (b * pixels + p) * s->channels + c, sum, n);
      }
    }
}

/* One row of pixels: gradients of positions and of weights per pixel, which are sums over channels. */
static void FN(sample_backward_fields)(const Sample *s, const SampleGradient *g, float *scratch, int64_t index) {
  (void)scratch;
  int64_t b = index / s->height, pixels = s->height * s->width, width = s->channels / s->groups;
  const float *x = s->x + b * pixels * s->channels;
  for (int64_t p = index % s->height * s->width, end = p + s->width; p < end; p++) {
    const float *grad = g->grad + (b * pixels + p) * s->channels;
    for (int64_t group = 0; group < s->groups; group++)
      for (int64_t k = 0; k < s->anchors; k++) {
        FN(Corners) corners = FN(corners)(s, b, group, k, p);
        vf sums[4] = {FN(all)(0.0f), FN(all)(0.0f), FN(all)(0.0f), FN(all)(0.0f)};
        for (int64_t c = group * width, stop = c + width; c < stop; c += LANES) {
          int64_t n = stop - c < LANES ? stop - c : LANES;
          vf pull = FN(load_n)(grad + c, n);
          if (!s->weights.at) pull *= FN(load_n)(s->fixed + k * s->channels + c, n);
          for (int i = 0; i < 4; i++) sums[i] += pull * FN(load_n)(x + corners.pixel[i] * s->channels + c, n);
        }
        float value = 0, down = 0, along = 0;
        for (int i = 0; i < 4; i++) {
          float dot = FN(total)(sums[i]);
          value += dot * corners.weight[i];
          down += dot * corners.down[i];
          along += dot * corners.along[i];
        }
        int64_t at = (b * s->groups + group) * s->anchors + k;
        float factor = s->weights.at ? FN(at)(s->weights, b, group, k, 0, p) : 1.0f;
        if (g->position) {
          g->position[2 * at * pixels + p] = down * factor;
          g->position[(2 * at + 1) * pixels + p] = along * factor;
        }
        if (g->weights) g->weights[at * pixels + p] = value;
      }
  }
}

/* A part of a group's channels in one batch: gradients of x and of weights per channel, which are sums over pixels. */
static void FN(sample_backward_map)(const Sample *s, const SampleGradient *g, int64_t parts, float *scratch,
                                    int64_t index) {
  (void)scratch;
  int64_t pixels = s->height * s->width, width = s->channels / s->groups, blocks = (width + LANES - 1) / LANES;
  int64_t b = index / (s->groups * parts), group = index / parts % s->groups, part = index % parts;
  int64_t start = group * width + blocks * part / parts * LANES;
  int64_t stop = group * width + blocks * (part + 1) / parts * LANES;
  if (stop > (group + 1) * width) stop = (group + 1) * width;
  const float *x = s->x + b * pixels * s->channels;
  float *grad_x = g->x + b * pixels * s->channels;
  for (int64_t p = 0; p < pixels; p++)
    for (int64_t k = 0; k < s->anchors; k++) {
      FN(Corners) corners = FN(corners)(s, b, group, k, p);
      float factor = s->weights.at ? FN(at)(s->weights, b, group, k, 0, p) : 1.0f;
      for (int64_t c = start; c < stop; c += LANES) {
        int64_t n = stop - c < LANES ? stop - c : LANES;
        vf grad = FN(load_n)(g->grad + (b * pixels + p) * s->channels + c, n), value = FN(all)(0.0f);
        vf pull = grad * (s->weights.at ? FN(all)(factor) : FN(load_n)(s->fixed + k * s->channels + c, n));
        for (int i = 0; i < 4; i++) {
          float *to = grad_x + corners.pixel[i] * s->channels + c;
          FN(store_n)(to, FN(load_n)(to, n) + pull * corners.weight[i], n);
          if (g->fixed) value += FN(load_n)(x + corners.pixel[i] * s->channels + c, n) * corners.weight[i];
        }
        if (g->fixed) {
          float *to = g->fixed + (b * s->anchors + k) * s->channels + c;
          FN(store_n)(to, FN(load_n)(to, n) + grad * value, n);
        }
      }
    }
}
