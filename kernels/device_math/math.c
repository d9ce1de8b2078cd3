/* The mathematical functions that NVIDIA's GPUs have no instruction for, under the names by which CubeCL calls them.
 *
 * CubeCL's LLVM back end takes them from `libdevice.10.bc` of the CUDA toolkit. A machine that runs programs has the driver
 * and no toolkit; there this file, compiled to bitcode by build.sh, stands in. f32 alone: no kernel here computes in f64.
 * Polynomials are fitted by fit.py. What is on a hot path (exp, log, tanh, erf, sin, cos, exp2) computes in f32 with fused
 * multiply-adds; the rest in f64, which is slow on most cards and asked for by nothing that trains.
 * kernels/tests/reference/device_math.rs holds every function to the C library's f64 on the CPU. */

typedef unsigned int u32;
typedef unsigned long long u64;

#define INLINE static inline __attribute__((always_inline))
#define PUBLIC __attribute__((always_inline))
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#define INFINITE __builtin_inff()
#define NOTHING __builtin_nanf("")

INLINE u32 bits(float x) { u32 b; __builtin_memcpy(&b, &x, 4); return b; }
INLINE float number(u32 b) { float x; __builtin_memcpy(&x, &b, 4); return x; }
INLINE u64 bits_d(double x) { u64 b; __builtin_memcpy(&b, &x, 8); return b; }
INLINE double number_d(u64 b) { double x; __builtin_memcpy(&x, &b, 8); return x; }
/* a + b x + c x^2 ... */
#define P2(x, a, b) FMA(b, x, a)
#define P3(x, a, ...) FMA(P2(x, __VA_ARGS__), x, a)
#define P4(x, a, ...) FMA(P3(x, __VA_ARGS__), x, a)
#define P5(x, a, ...) FMA(P4(x, __VA_ARGS__), x, a)
#define P6(x, a, ...) FMA(P5(x, __VA_ARGS__), x, a)
#define P7(x, a, ...) FMA(P6(x, __VA_ARGS__), x, a)
#define P8(x, a, ...) FMA(P7(x, __VA_ARGS__), x, a)
#define P9(x, a, ...) FMA(P8(x, __VA_ARGS__), x, a)

/* 2^n for n in -126..127. */
INLINE float power(int n) { return number((u32)(n + 127) << 23); }
INLINE double power_d(int n) { return number_d((u64)(n + 1023) << 52); }

/* e^(r + low) - 1 for |r| <= log(2)/2; `low` is what r's rounding lost. */
INLINE float exp_less_one(float r, float low) {
  float p = P5(r, 0x1p-1f, 0x1.55548cp-3f, 0x1.5554e4p-5f, 0x1.123d02p-7f, 0x1.6d514ap-10f);
  return r + FMA(r * r, p, low);
}
/* (1 + x) 2^n, rounded once also where the result is subnormal. */
INLINE float scale(float one_and_x, float n) {
  int whole = (int)n, half = whole / 2;
  return one_and_x * power(half) * power(whole - half);
}

PUBLIC float __nv_expf(float x) {
  if (x != x) return x;
  if (x > 88.75f) return INFINITE;
  if (x < -104.0f) return 0.0f;
  float n = __builtin_rintf(x * 0x1.715476p+0f);
  /* log 2 in two parts, the first with few enough bits that n times it is exact. */
  float r = FMA(n, -0x1.62e400p-1f, x);
  float low = n * -0x1.7f7d1cp-20f;
  float sum = r + low;
  return scale(1.0f + exp_less_one(sum, low - (sum - r)), n);
}

PUBLIC float __nv_exp2f(float x) {
  if (x != x) return x;
  if (x >= 128.0f) return INFINITE;
  if (x < -150.0f) return 0.0f;
  float n = __builtin_rintf(x), f = x - n;
  float r = f * 0x1.62e430p-1f;
  float low = FMA(f, 0x1.62e430p-1f, -r) + f * -0x1.05c610p-29f;
  return scale(1.0f + exp_less_one(r, low), n);
}

PUBLIC float __nv_logf(float x) {
  if (x == 0.0f) return -INFINITE;
  if (x < 0.0f) return NOTHING;
  if (!(x < INFINITE)) return x;
  float extra = 0.0f;
  if (x < 0x1p-126f) {
    x *= 0x1p23f;
    extra = -23.0f;
  }
  /* x = m 2^e with m in sqrt(1/2)..sqrt(2) */
  int e = (int)(bits(x) - 0x3f3504f3u) >> 23;
  float n = (float)e + extra;
  float f = number(bits(x) - ((u32)e << 23)) - 1.0f;
  float p = P9(f, 0x1.555546p-2f, -0x1.00000ap-2f, 0x1.99a546p-3f, -0x1.555ae4p-3f, 0x1.232cfap-3f, -0x1.fc4da0p-4f,
                       0x1.e7a54ep-4f, -0x1.dd6510p-4f, 0x1.11c874p-4f);
  float square = f * f;
  float rest = FMA(square * f, p, n * -0x1.05c610p-29f);
  float less = FMA(-0.5f, square, rest);
  /* n log 2 + f in two parts: the larger first. */
  float large = FMA(n, 0x1.62e430p-1f, f);
  float small = f - FMA(n, -0x1.62e430p-1f, large);
  return n == 0.0f ? f + less : large + (small + less);
}

PUBLIC float __nv_tanhf(float x) {
  if (x != x) return x;
  float a = __builtin_fabsf(x);
  if (a < 0.55f) {
    float z = x * x;
    float p = P6(z, -0x1.555554p-2f, 0x1.111096p-3f, -0x1.b9fb24p-5f, 0x1.64360ap-6f, -0x1.0fe91cp-7f, 0x1.29f3cep-9f);
    return FMA(x * z, p, x);
  }
  float t = a > 9.25f ? 1.0f : 1.0f - 2.0f / (__nv_expf(2.0f * a) + 1.0f);
  return __builtin_copysignf(t, x);
}

PUBLIC float __nv_erff(float x) {
  if (x != x) return x;
  float a = __builtin_fabsf(x);
  if (a < 1.0f) {
    float p = P7(x * x, 0x1.06eba8p-3f, -0x1.812740p-2f, 0x1.ce2d50p-4f, -0x1.b7fe8ep-6f, 0x1.542deep-8f,
                         -0x1.a5099ep-11f, 0x1.4c2f4cp-14f);
    return FMA(x, p, x);
  }
  float q = P9(a, 0x1.20e4cap+0f, 0x1.459d8ap-1f, 0x1.abc862p-4f, -0x1.6166fap-6f, 0x1.09d2f0p-9f, 0x1.ae18d2p-12f,
                       -0x1.8aedfap-13f, 0x1.f0e066p-16f, -0x1.e85696p-20f);
  float t = a >= 4.0f ? 1.0f : 1.0f - __nv_expf(-a * q);
  return __builtin_copysignf(t, x);
}

/* A zero, then the first 256 bits of 2/pi. */
INLINE u64 two_over_pi(int word) {
  switch (word) {
    case 0: return 0u;
    case 1: return 0xa2f9836eu;
    case 2: return 0x4e441529u;
    case 3: return 0xfc2757d1u;
    case 4: return 0xf534ddc0u;
    case 5: return 0xdb629599u;
    case 6: return 0x3c439041u;
    case 7: return 0xfe5163abu;
    default: return 0xdebbc561u;
  }
}
/* x - k pi/2 in -pi/4..pi/4, and k modulo 4. */
INLINE float reduce(float x, int *k) {
  float a = __builtin_fabsf(x);
  double r;
  int n;
  if (a < 0x1p24f) {
    double whole = __builtin_rint((double)x * 0x1.45f306dc9c883p-1);
    r = __builtin_fma(whole, -0x1.921fb54442d18p+0, (double)x);
    r = __builtin_fma(whole, -0x1.1a62633145c07p-54, r);
    n = (int)whole;
  } else {
    /* Payne and Hanek: x = m 2^e, and of 2^e 2/pi only the bits below 4 matter, since 4 quarters are a whole turn. */
    u64 m = (bits(a) & 0x7fffffu) | 0x800000u;
    int first = (int)(bits(a) >> 23) - 150 + 30, word = first >> 5, shift = first & 31;
    u64 high = two_over_pi(word) << 32 | two_over_pi(word + 1);
    u64 low = two_over_pi(word + 2) << 32 | two_over_pi(word + 3);
    u64 top = shift ? high << shift | low >> (64 - shift) : high;
    u64 product = m * top + (m * (low << shift >> 32) >> 32);
    n = (int)(product >> 62);
    long long part = (long long)(product << 2);
    if (part < 0) n += 1;
    r = (double)part * 0x1.921fb54442d18p+0 * 0x1p-64;
    if (x < 0.0f) {
      r = -r;
      n = -n;
    }
  }
  *k = n & 3;
  return (float)r;
}
INLINE float sine(float r) {
  float z = r * r;
  return FMA(r * z, P4(z, -0x1.555556p-3f, 0x1.111166p-7f, -0x1.a04a82p-13f, 0x1.786af0p-19f), r);
}
INLINE float cosine(float r) {
  float z = r * r;
  return FMA(z * z, P3(z, 0x1.55554ap-5f, -0x1.6c0c2ep-10f, 0x1.99ead0p-16f), FMA(z, -0.5f, 1.0f));
}
INLINE float turned(float x, int quarters) {
  if (!(__builtin_fabsf(x) < INFINITE)) return NOTHING;
  int k;
  float r = reduce(x, &k);
  k = (k + quarters) & 3;
  float y = k & 1 ? cosine(r) : sine(r);
  return k & 2 ? -y : y;
}
PUBLIC float __nv_sinf(float x) { return x == 0.0f ? x : turned(x, 0); }
PUBLIC float __nv_cosf(float x) { return turned(x, 1); }
PUBLIC float __nv_tanf(float x) {
  if (!(__builtin_fabsf(x) < INFINITE)) return NOTHING;
  if (x == 0.0f) return x;
  int k;
  float r = reduce(x, &k);
  float s = sine(r), c = cosine(r);
  return k & 1 ? -c / s : s / c;
}

/* In f64, to about 1e-13. */
INLINE double exp_d(double x) {
  if (x != x) return x;
  if (x > 700.0) return (double)INFINITE;
  if (x < -700.0) return 0.0;
  double n = __builtin_rint(x * 0x1.71547652b82fep+0);
  double r = __builtin_fma(n, -0x1.62e42fefa39efp-1, x);
  double sum = 1.0;
#pragma unroll
  for (int i = 12; i >= 1; i--) sum = __builtin_fma(sum, r / i, 1.0);
  return sum * power_d((int)n);
}
/* Of a number above zero that is not subnormal. */
INLINE double log_d(double x) {
  if (!(x < (double)INFINITE)) return x;
  int e = (int)(bits_d(x) >> 52) - 1023;
  double m = number_d(bits_d(x) - ((u64)(long long)e << 52));
  if (m > 0x1.6a09e667f3bcdp+0) {
    m *= 0.5;
    e += 1;
  }
  double s = (m - 1.0) / (m + 1.0), z = s * s, sum = 0.0;
#pragma unroll
  for (int i = 19; i >= 1; i -= 2) sum = __builtin_fma(sum, z, 1.0 / i);
  return __builtin_fma((double)e, 0x1.62e42fefa39efp-1, 2.0 * s * sum);
}
/* Of a number from zero to one: atan(1/2 + u) about 1/2 would need less; the series after one halving of the angle. */
INLINE double atan_to_one(double x) {
  double t = x / (1.0 + __builtin_sqrt(__builtin_fma(x, x, 1.0)));
  double z = t * t, sum = 0.0;
#pragma unroll
  for (int i = 27; i >= 1; i -= 2) sum = __builtin_fma(-sum, z, 1.0 / i);
  return 2.0 * t * sum;
}
/* The angle of (x, y), both at least zero and not both zero or infinite. */
INLINE double angle(double y, double x) {
  return y <= x ? atan_to_one(y / x) : 0x1.921fb54442d18p+0 - atan_to_one(x / y);
}

PUBLIC float __nv_exp10f(float x) { return (float)exp_d((double)x * 0x1.26bb1bbb55516p+1); }
INLINE float log_times(float x, double factor) {
  if (x == 0.0f) return -INFINITE;
  if (x < 0.0f) return NOTHING;
  return (float)(log_d((double)x) * factor);
}
PUBLIC float __nv_log2f(float x) { return log_times(x, 0x1.71547652b82fep+0); }
PUBLIC float __nv_log10f(float x) { return log_times(x, 0x1.bcb7b1526e50ep-2); }

PUBLIC float __nv_powf(float x, float y) {
  float a = __builtin_fabsf(x), b = __builtin_fabsf(y);
  if (y == 0.0f || x == 1.0f) return 1.0f;
  if (x != x || y != y) return NOTHING;
  if (a == 1.0f && b == INFINITE) return 1.0f;
  int whole = b >= 0x1p23f || __builtin_truncf(y) == y;
  int odd = whole && b < 0x1p24f && ((int)b & 1);
  if (x < 0.0f && a < INFINITE && !whole) return NOTHING;
  float size = a == 0.0f ? (y < 0.0f ? INFINITE : 0.0f) : (float)exp_d((double)y * log_d((double)a));
  return odd && (bits(x) >> 31) ? -size : size;
}
PUBLIC float __nv_cbrtf(float x) {
  double a = (double)__builtin_fabsf(x);
  if (!(a > 0.0) || !(a < (double)INFINITE)) return x;
  return __builtin_copysignf((float)exp_d(log_d(a) / 3.0), x);
}

PUBLIC float __nv_atanf(float x) {
  float a = __builtin_fabsf(x);
  if (x != x || a == 0.0f) return x;
  double t = a == INFINITE ? 0x1.921fb54442d18p+0 : angle((double)a, 1.0);
  return __builtin_copysignf((float)t, x);
}
PUBLIC float __nv_atan2f(float y, float x) {
  if (x != x || y != y) return NOTHING;
  double a = (double)__builtin_fabsf(x), b = (double)__builtin_fabsf(y);
  if (a == b && (a == 0.0 || a == (double)INFINITE)) a = b = a == 0.0 ? 0.0 : 1.0;
  double t = a == 0.0 && b == 0.0 ? 0.0 : angle(b, a);
  if (bits(x) >> 31) t = 0x1.921fb54442d18p+1 - t;
  return __builtin_copysignf((float)t, y);
}
PUBLIC float __nv_asinf(float x) {
  double a = (double)__builtin_fabsf(x);
  if (!(a <= 1.0)) return NOTHING;
  if (a == 0.0) return x;
  return __builtin_copysignf((float)angle(a, __builtin_sqrt((1.0 - a) * (1.0 + a))), x);
}
PUBLIC float __nv_acosf(float x) {
  double a = (double)__builtin_fabsf(x);
  if (!(a <= 1.0)) return NOTHING;
  double t = angle(__builtin_sqrt((1.0 - a) * (1.0 + a)), a);
  return (float)(x < 0.0f ? 0x1.921fb54442d18p+1 - t : t);
}

PUBLIC float __nv_sinhf(float x) {
  double d = (double)x, a = __builtin_fabs(d);
  if (!(a > 0.0) || !(a < (double)INFINITE)) return x;
  if (a < 1.0) {
    double z = d * d, sum = 1.0;
#pragma unroll
    for (int i = 12; i >= 2; i -= 2) sum = __builtin_fma(sum, z / (i * (i + 1)), 1.0);
    return (float)(d * sum);
  }
  double e = exp_d(a);
  return __builtin_copysignf((float)(0.5 * (e - 1.0 / e)), x);
}
PUBLIC float __nv_coshf(float x) {
  double e = exp_d(__builtin_fabs((double)x));
  return (float)(0.5 * (e + 1.0 / e));
}
