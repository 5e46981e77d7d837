/* Optional accelerator of dfmamba.ops: selective scan and deformable sampling on the CPU.
 *
 * Knows neither PyTorch nor NumPy: Python passes pointers (`dfmamba.ops.native`). The same source is compiled for
 * several instruction sets and the best one that the machine has is chosen at the first call. Work is split over
 * OpenMP threads where the compiler has it; with `libgomp` that is the pool PyTorch uses. */
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "kernels.h"

#define JOIN(a, b) a##_##b
#define NAMED(a, b) JOIN(a, b)
#define FN(name) NAMED(name, SET)

/* Steps of a chunk: its states should fit into the first cache. */
static int64_t chunk_of(const Scan *s) {
  int64_t chunk = 512 / s->states;
  chunk = chunk > 128 ? 128 : chunk < 16 ? 16 : chunk;
  return chunk < s->length ? chunk : s->length;
}

/* One thread's share of a step, and the items that it has of `total`. */
typedef struct {
  int64_t part, parts;
} Share;

typedef struct {
  int64_t from, to;
} Range;

static Range range_of(int64_t total, Share share) {
  Range range = {total * share.part / share.parts, total * (share.part + 1) / share.parts};
  return range;
}

#define SET portable
#define ROWS 3
#define PANELS 1
#include "vector.h"
#include "scan.h"
#include "sample.h"
#include "network.h"
#undef SET
#undef ROWS
#undef PANELS

#if defined(__x86_64__)
#define WIDE 1
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define SET avx2
#define ROWS 6
#define PANELS 1
#include "vector.h"
#include "scan.h"
#include "sample.h"
#include "network.h"
#undef SET
#undef ROWS
#undef PANELS
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,prefer-vector-width=512")
#endif
#define SET avx512
#define ROWS 6
#define PANELS 4
#include "vector.h"
#include "scan.h"
#include "sample.h"
#include "network.h"
#undef SET
#undef ROWS
#undef PANELS
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#define EXPORT __attribute__((visibility("default")))

/* Instruction sets, best last; `limit` (0, 1, 2) can only lower the choice, for tests. */
static int limit = 2;

static int level(void) {
#ifdef WIDE
  static int found = -1;
  if (found < 0) {
    __builtin_cpu_init();
    found = 0;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found = 1;
    if (found == 1 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
      found = 2;
  }
  return found < limit ? found : limit;
#else
  return 0;
#endif
}

EXPORT int dfmamba_level(int highest) {
  limit = highest;
  return level();
}

#ifdef WIDE
#define RUN(name, ...)                                \
  do {                                                \
    if (set == 2) name##_avx512(__VA_ARGS__);         \
    else if (set == 1) name##_avx2(__VA_ARGS__);      \
    else name##_portable(__VA_ARGS__);                \
  } while (0)
#else
#define RUN(name, ...) name##_portable(__VA_ARGS__)
#endif

/* Runs `statement` for index = 0 .. count - 1, each thread with `floats` numbers of scratch memory of its own. */
#define SHARE(count, floats, wanted, statement)                                         \
  do {                                                                                  \
    int64_t many = (wanted) < (count) ? (wanted) : (count);                             \
    int failed = 0, set = level();                                                      \
    (void)set;                                                                          \
    _Pragma("omp parallel num_threads(many) if (many > 1)") {                           \
      float *scratch = aligned_alloc(64, (size_t)((floats) * 4 + 63) / 64 * 64 + 64);   \
      if (!scratch) failed = 1;                                                         \
      _Pragma("omp for schedule(dynamic)") for (int64_t index = 0; index < (count); index++) \
        if (scratch) statement;                                                         \
      free(scratch);                                                                    \
    }                                                                                   \
    return failed;                                                                      \
  } while (0)

/* Below this many vector updates of a state (or products of sampling) a second thread costs more than it saves. */
#define WORTH_SHARING 20000

EXPORT int dfmamba_scan_forward(const Scan *s, const ScanResult *r, int64_t parts) {
  int64_t work = s->batch * s->length * s->channels * (s->states + 4) / LANES, chunk = chunk_of(s);
  int64_t threads = work < WORTH_SHARING / 4 ? 1 : s->threads, size = s->states * LANES;
  SHARE(s->batch * s->groups * parts, 2 * size + 4 * chunk * LANES, threads,
        RUN(scan_forward, s, r, parts, chunk, scratch, index));
}

EXPORT int dfmamba_scan_backward(const Scan *s, const ScanGradient *g) {
  int64_t work = s->batch * s->length * s->channels * (s->states + 4) / LANES, chunk = chunk_of(s);
  int64_t threads = work < WORTH_SHARING / 8 ? 1 : s->threads, size = s->states * LANES;
  int64_t chunks = (s->length + chunk - 1) / chunk;
  SHARE(s->batch * s->groups * g->parts, size * (4 + chunks + 2 * chunk) + 7 * chunk * LANES, threads,
        RUN(scan_backward, s, g, chunk, scratch, index));
}

EXPORT int dfmamba_sample_forward(const Sample *s, float *y) {
  int64_t work = s->batch * s->height * s->width * s->channels * s->anchors / 4;
  int64_t threads = work < WORTH_SHARING ? 1 : s->threads;
  SHARE(s->batch * s->height, s->anchors * 32, threads, RUN(sample_forward, s, y, scratch, index));
}

static int fields(const Sample *s, const SampleGradient *g, int64_t threads) {
  SHARE(s->batch * s->height, 1, threads, RUN(sample_backward_fields, s, g, scratch, index));
}

static int map(const Sample *s, const SampleGradient *g, int64_t threads) {
  int64_t blocks = (s->channels / s->groups + LANES - 1) / LANES, items = s->batch * s->groups;
  int64_t parts = (2 * threads + items - 1) / items;
  if (parts > blocks) parts = blocks;
  SHARE(items * parts, 1, threads, RUN(sample_backward_map, s, g, parts, scratch, index));
}

EXPORT int dfmamba_sample_backward(const Sample *s, const SampleGradient *g) {
  int64_t work = s->batch * s->height * s->width * s->channels * s->anchors / 2;
  int64_t threads = work < WORTH_SHARING ? 1 : s->threads;
  int failed = g->position || g->weights ? fields(s, g, threads) : 0;
  return g->x && !failed ? map(s, g, threads) : failed;
}

/* Takes the steps of a network in their order: on the calling thread or, for large maps, on a team of `threads` that
 * share each step. `floats` of scratch memory suffice for each sampling and scan among them. */
EXPORT int dfmamba_run(const Step *steps, int64_t count, int64_t floats, int64_t threads) {
  static const float zeros[4096];
  int failed = 0, set = level();
  (void)set;
  _Pragma("omp parallel num_threads(threads) if (threads > 1)") {
    Share share = {0, 1};
#ifdef _OPENMP
    share = (Share){omp_get_thread_num(), omp_get_num_threads()};
#endif
    float *scratch = aligned_alloc(64, (size_t)(floats * 4 + 63) / 64 * 64 + 64);
    if (!scratch) failed = 1;
    _Pragma("omp barrier")
    for (int64_t i = 0; i < count && !failed; i++) {
      RUN(take, steps + i, share, zeros, scratch);
      _Pragma("omp barrier")
    }
    free(scratch);
  }
  return failed;
}

/* A module without members, so that Python's build tools make, name and find this file. */
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "kernels", 0, 0, 0, 0, 0, 0, 0};

PyMODINIT_FUNC PyInit_kernels(void) { return PyModule_Create(&definition); }
