/* What the Python side passes: plain pointers and strides in elements. All numbers are 32-bit floats. */
#ifndef DFMAMBA_KERNELS_H
#define DFMAMBA_KERNELS_H
#include <stdint.h>

/* (batch, channel, step) in any order; channels next to each other (1) are read in place. `at` NULL: absent. */
typedef struct {
  float *at;
  int64_t batch, channel, step;
} Rows;

/* B and C: (batch, group, state, step) in any order; a stride of 0 broadcasts. */
typedef struct {
  const float *at;
  int64_t batch, group, state, step;
} Matrix;

typedef struct {
  int64_t batch, length, channels, states, groups, softplus, threads;
  Rows u, delta, z;
  Matrix B, C;
  const float *A, *D, *bias; /* (channels, states), (channels), (channels) */
} Scan;

/* last: (batch, channels, states), dense. */
typedef struct {
  Rows y;
  float *last;
} ScanResult;

/* Of B and C there is one copy per part of a group's channels, of A, D and bias one per batch; the caller sums
 * over copies. All but the sequences are dense. */
typedef struct {
  Rows grad_y, u, delta, z;
  const float *grad_last; /* (batch, channels, states) or NULL */
  float *A, *D, *bias;    /* (batch, channels, states), (batch, channels), (batch, channels) */
  float *B, *C;           /* (parts, batch, groups, length, states) */
  int64_t parts;
} ScanGradient;

/* Positions or weights per pixel: (batch, group, anchor, axis, pixel). */
typedef struct {
  const float *at;
  int64_t batch, group, anchor, axis, pixel;
} Field;

typedef struct {
  int64_t batch, height, width, channels, groups, anchors, threads;
  const float *x; /* (batch, height * width, channels), dense */
  Field offsets;  /* at NULL: none */
  Field weights;  /* at NULL: `fixed` holds */
  const float *fixed; /* (anchors, channels) */
  const float *grid;  /* (anchors, 2) as (dy, dx) */
} Sample;

typedef struct {
  const float *grad; /* (batch, height * width, channels), dense */
  float *x;          /* as grad, zeroed by the caller */
  float *position;   /* (batch, groups, anchors, 2, pixels) or NULL */
  float *weights;    /* (batch, groups, anchors, pixels) or NULL */
  float *fixed;      /* (batch, anchors, channels), zeroed by the caller, or NULL */
} SampleGradient;

/* One step of a network in inference: an operation on maps (height * width, channels), of which `in_row`, `out_row`
 * and `other_row` say how many numbers lie between a pixel and the next. What is absent is NULL or 0. */
enum {
  STEP_CONVOLVE, STEP_DEPTHWISE, STEP_NORM, STEP_GATE, STEP_SCALE, STEP_BOUND, STEP_ENLARGE, STEP_AVERAGE,
  STEP_SAMPLE, STEP_SCAN
};
enum { ACT_NONE, ACT_RELU, ACT_SILU, ACT_GELU, ACT_SIGMOID };

typedef struct {
  int64_t kind, act, height, width, channels, out_height, out_width, out_channels, kernel, stride;
  int64_t in_row, out_row, other_row;
  const float *in, *weight, *bias, *other;
  float *out;
  const Sample *sample;
  const Scan *scan;
  const ScanResult *result;
  float number;
} Step;

#endif
