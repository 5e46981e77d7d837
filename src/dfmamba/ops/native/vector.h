/* Sixteen floats at a time, with the compiler's vector extensions: one zmm, two ymm or four 128-bit registers,
 * whatever the functions around are compiled for. Needs GCC 12 or Clang 15. */
#include <stdint.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef float vf_loose __attribute__((vector_size(64), aligned(4), may_alias));
typedef float vf8 __attribute__((vector_size(32)));
typedef float vf4 __attribute__((vector_size(16)));

INLINE vf FN(all)(float x) { return x - (vf){0}; }
INLINE vf FN(load)(const float *p) { return *(const vf_loose *)p; }
INLINE void FN(store)(float *p, vf x) { *(vf_loose *)p = x; }

/* The first n of 16 channels; the others read zero and are not written. */
INLINE vf FN(load_n)(const float *p, int64_t n) {
  if (n >= LANES) return FN(load)(p);
  float kept[LANES] = {0};
  memcpy(kept, p, (size_t)n * sizeof(float));
  return FN(load)(kept);
}
INLINE void FN(store_n)(float *p, vf x, int64_t n) {
  if (n >= LANES) {
    FN(store)(p, x);
  } else {
    float kept[LANES];
    FN(store)(kept, x);
    memcpy(p, kept, (size_t)n * sizeof(float));
  }
}

INLINE vf FN(pick)(vi where, vf yes, vf no) { return (vf)((where & (vi)yes) | (~where & (vi)no)); }

INLINE float FN(total)(vf x) {
  vf8 a = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
          __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  vf4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (b[0] + b[2]) + (b[1] + b[3]);
}

/* exp to 1e-7 relative: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial in r, and n added to the exponent.
 * Below -87.3 the smallest normal number, above 88.72 infinity, and not-a-number stays. The polynomial is a
 * least-squares fit of (exp(r) - 1 - r) / r^2 at Chebyshev nodes. */
INLINE vf FN(exponential)(vf x) {
  const vf low = FN(all)(-87.33654f), magic = FN(all)(12582912.0f);
  vf y = FN(pick)(x < low, low, x);
  vf shifted = y * 1.44269504f + magic;
  vf n = shifted - magic;
  vf r = y - n * 0.693359375f + n * 2.12194440e-4f;
  vf p = r * 0.0013933652f + 0.0083631815f;
  p = p * r + 0.0416664649f;
  p = p * r + 0.1666657697f;
  p = p * r + 0.5000000013f;
  p = p * (r * r) + r + 1.0f;
  vi power = ((vi)shifted - (vi)magic + 127) << 23;
  vf result = p * (vf)power;
  return FN(pick)(x > 88.72f, FN(all)(__builtin_inff()), result);
}

/* softplus(x) = max(x, 0) + log1p(exp(-|x|)) and its derivative, the sigmoid. log1p(e) = 2 artanh(e / (2 + e)). */
INLINE vf FN(softplus)(vf x, vf *slope) {
  vf e = FN(exponential)(FN(pick)(x > 0, -x, x));
  vf inverse = 1.0f / (1.0f + e);
  *slope = FN(pick)(x > 0, inverse, e * inverse);
  vf s = e / (2.0f + e), t = s * s;
  vf p = t * 0.1161950884f + 0.1085166161f;
  p = p * t + 0.1429629137f;
  p = p * t + 0.1999985069f;
  p = p * t + 0.3333333367f;
  return FN(pick)(x > 0, x, FN(all)(0.0f)) + 2.0f * s * (1.0f + t * p);
}

INLINE vf FN(sigmoid)(vf x) {
  vf e = FN(exponential)(FN(pick)(x > 0, -x, x));
  vf inverse = 1.0f / (1.0f + e);
  return FN(pick)(x > 0, inverse, e * inverse);
}
