// Turns pairs of channels in GPU memory: the rotation that kernels.py does in the memory of the processor.
//
// The kernel is a template, `rotate`. An instance of it is named by the one who asks for it, in a line after this file,
//
//     ROTARY_KERNEL(rotate_float16_vectors_half_interleaved_integers, __half, 8, HALF, INTERLEAVED, INTEGERS)
//
// by the type of a channel, how many of them a vector holds (16 bytes' worth, or 1), the layout that is read, the
// layout that is written (ANY and ANY for vectors of 1, which are told when they run), and where angles come from:
//
//     TABLE      rows of cosine and sine, made elsewhere
//     INTEGERS   integer positions          } angles are made here, for each thread, and kept in registers
//     FLOATS     floating positions         } while it turns one head after another
//
// An angle is a fraction of a turn in fixed point. A frequency W, in radians, comes as F = round(W / 2 pi * 2^128), so
// that the fraction of a turn at an integer position n is n F mod 2^128: an integer product that wraps, in which no
// digit is lost. For all positions of 64 bits, both signs, it is off by |n| 2^-129 <= 2^-66 turns at most on each
// position axis, and by 2^-64 more where floats are wanted, for which the upper 64 bits are kept. A floating position
// is the sum of an integer and a fraction in steps of 2^-64: two such products, and |W| 2^-64 radians more where it has
// digits below. What is left of a phase after whole quarters of a turn goes through polynomials as the sum of two
// numbers, so that cosine and sine, times the factor, are within 0.6 ulp besides, and floats below 2^-27 within 2.
//
// There is nothing here but integers, conversions and +, -, *, fma of IEEE 754, so that a C++ compiler for the
// processor makes a program with the same bits; the tests run that one. Products and sums that are not to be fused
// by the compiler are written so that they cannot be. With -ftz=true, which CuPy always sets, subnormal floats count
// as zero.
//
// Threads share nothing: each one reads what it turns before it writes it, so that `y` may be `x`. The fields of the
// parameter are explained in cuda_struct.py.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#ifndef ROTARY_SEES  // the tests look at every access
#define ROTARY_SEES(address, bytes, is_store)
#endif

typedef long long i64;
typedef unsigned long long u64;

enum Layout { HALF, INTERLEAVED, ANY };
enum Trig { TABLE, INTEGERS, FLOATS };
enum PositionType { NO_POSITIONS, INT32, INT64, FLOAT32, FLOAT64 };

const i64 NO_LIMIT = 0x7fffffffffffffffLL;

struct Array {
  const char* x;
  char* y;
  i64 x_batch, x_token, x_head;
  i64 y_batch, y_token, y_head;
  int heads, copy;
};

struct Parameters {
  Array arrays[2];
  const char *cosine, *sine, *turns;
  i64 table_row, trig_head, rows;
  const char* positions;
  i64 position_axis, position_batch, position_token;
  const char* bounds;
  i64 first, step_batch, step_token, limit;
  double factor;
  float factor_high, factor_low, sine_sign;
  int position_type, bounds_type, sequences;
  int tokens, length, width, start, pairs, axes, source, target;
};

// ------------------------------------------------------------------------------------------------
// Numbers. Channels of 16 bits are turned as floats and rounded once.

template <typename T> struct RealOf { typedef float type; };
template <> struct RealOf<double> { typedef double type; };

__device__ __forceinline__ float widened(float v) { return v; }
__device__ __forceinline__ double widened(double v) { return v; }
__device__ __forceinline__ float widened(__half v) { return __half2float(v); }
__device__ __forceinline__ float widened(__nv_bfloat16 v) { return __bfloat162float(v); }

__device__ __forceinline__ void narrow(float& to, float v) { to = v; }
__device__ __forceinline__ void narrow(double& to, double v) { to = v; }
__device__ __forceinline__ void narrow(__half& to, float v) { to = __float2half_rn(v); }
__device__ __forceinline__ void narrow(__nv_bfloat16& to, float v) { to = __float2bfloat16_rn(v); }

__device__ __forceinline__ float fused(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double fused(double a, double b, double c) { return fma(a, b, c); }
// A product that stays one, whatever it is added to.
__device__ __forceinline__ float product(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double product(double a, double b) { return __dmul_rn(a, b); }

// ------------------------------------------------------------------------------------------------
// Memory. A vector is moved as integers of its size.

template <int BYTES> struct BitsOf;
template <> struct BitsOf<2> { typedef unsigned short type; };
template <> struct BitsOf<4> { typedef unsigned int type; };
template <> struct BitsOf<8> { typedef uint2 type; };
template <> struct BitsOf<16> { typedef uint4 type; };

template <typename T, int SIZE> union Vector {
  typedef typename BitsOf<sizeof(T) * SIZE>::type Bits;
  Bits bits;
  T number[SIZE];

  __device__ __forceinline__ Vector() {}
  __device__ __forceinline__ void load(const char* address) {
    ROTARY_SEES(address, sizeof(Bits), false);
    bits = *reinterpret_cast<const Bits*>(address);
  }
  __device__ __forceinline__ void store(char* address) const {
    ROTARY_SEES(address, sizeof(Bits), true);
    *reinterpret_cast<Bits*>(address) = bits;
  }
};

template <typename T> __device__ __forceinline__ T load(const char* address) {
  ROTARY_SEES(address, sizeof(T), false);
  return *reinterpret_cast<const T*>(address);
}

// As many numbers that lie one after another, in vectors of up to 16 bytes.
template <int COUNT, typename T>
__device__ __forceinline__ void load_run(T* to, const char* address) {
  constexpr int SIZE = COUNT * sizeof(T) > 16 ? 16 / sizeof(T) : COUNT;
#pragma unroll
  for (int i = 0; i < COUNT; i += SIZE) {
    Vector<T, SIZE> vector;
    vector.load(address + i * sizeof(T));
#pragma unroll
    for (int j = 0; j < SIZE; ++j) to[i + j] = vector.number[j];
  }
}

// ------------------------------------------------------------------------------------------------
// The pairs of a thread. Thread c has the vectors c of the first and of the second half of the window's channels, in
// either layout, so that neighbours touch neighbouring vectors. Between two halves these are the two channels of
// WIDTH pairs, one run of pairs. Interleaved they are two runs of WIDTH / 2 pairs, far apart; where only one side
// is interleaved the other one is moved in vectors of half the size.

template <int WIDTH, int SOURCE, int TARGET> struct Runs {
  static constexpr int SIZE = WIDTH == 1 || (SOURCE == HALF && TARGET == HALF) ? WIDTH : WIDTH / 2;
  static constexpr int COUNT = WIDTH / SIZE;
  static __device__ __forceinline__ int pair(int run, int chunk, int pairs) {
    return run * (pairs / 2) + chunk * SIZE;
  }
};

template <typename T, int WIDTH, int LAYOUT, int RUN> struct Pairs {
  static constexpr int SIZE = LAYOUT == INTERLEAVED ? 2 * RUN : RUN;
  static constexpr int COUNT = 2 * WIDTH / SIZE;
  Vector<T, SIZE> vectors[COUNT];

  // Where a chunk's first vector lies in the window, and how far from it another one, in bytes.
  static __device__ __forceinline__ int place(int chunk, int layout) {
    const int size = LAYOUT == ANY && layout == INTERLEAVED ? 2 : SIZE;
    return chunk * size * (int)sizeof(T);
  }
  static __device__ __forceinline__ int distance(int vector, int pairs, int layout) {
    int channels = vector % 2 * pairs + vector / 2 * (pairs / 2);
    if (LAYOUT == ANY && layout == INTERLEAVED) channels = vector;
    return channels * (int)sizeof(T);
  }
  __device__ __forceinline__ T& first(int pair) {
    return LAYOUT == INTERLEAVED ? vectors[pair / RUN].number[2 * (pair % RUN)]
                                 : vectors[2 * (pair / RUN)].number[pair % RUN];
  }
  __device__ __forceinline__ T& second(int pair) {
    return LAYOUT == INTERLEAVED ? vectors[pair / RUN].number[2 * (pair % RUN) + 1]
                                 : vectors[2 * (pair / RUN) + 1].number[pair % RUN];
  }
  __device__ __forceinline__ void load(const char* address, int pairs, int layout) {
#pragma unroll
    for (int k = 0; k < COUNT; ++k) vectors[k].load(address + distance(k, pairs, layout));
  }
  __device__ __forceinline__ void store(char* address, int pairs, int layout) const {
#pragma unroll
    for (int k = 0; k < COUNT; ++k) vectors[k].store(address + distance(k, pairs, layout));
  }
};

template <int WIDTH, typename Source, typename Target, typename Real>
__device__ __forceinline__ void turn(Target& y, Source& x, const Real (&cosine)[WIDTH],
                                     const Real (&sine)[WIDTH]) {
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    const Real a = widened(x.first(i)), b = widened(x.second(i));
    narrow(y.first(i), fused(a, cosine[i], -product(b, sine[i])));
    narrow(y.second(i), fused(b, cosine[i], product(a, sine[i])));
  }
}

// ------------------------------------------------------------------------------------------------
// Positions.

// The size of a position, as an integer and a fraction in units of 2^-64, and its sign.
struct Position {
  u64 whole, fraction;
  bool negative;
};

// Which row of positions a token reads. False for a token that lies in none of the packed sequences.
__device__ __forceinline__ bool find_row(const Parameters& p, int token, int& batch, int& row) {
  batch = (unsigned)token / (unsigned)p.length;
  row = token - batch * p.length;
  if (!p.bounds) return true;
  const bool wide = p.bounds_type == INT64;
  int low = 0, high = p.sequences;  // the sequence is in low .. high - 1
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    const i64 bound = wide ? load<i64>(p.bounds + 8LL * middle) : load<int>(p.bounds + 4LL * middle);
    if (bound <= token) low = middle; else high = middle;
  }
  const i64 begin = wide ? load<i64>(p.bounds + 8LL * low) : load<int>(p.bounds + 4LL * low);
  const i64 end = wide ? load<i64>(p.bounds + 8LL * (low + 1)) : load<int>(p.bounds + 4LL * (low + 1));
  batch = low;
  row = (int)(token - begin);
  return begin <= token && token < end;
}

// An integer position. False where it leaves 64 bits or its limit.
__device__ __forceinline__ bool find_integer(const Parameters& p, int axis, int batch, int row,
                                             i64& position) {
  const u64 walked = (u64)batch * (u64)p.step_batch + (u64)(i64)row * (u64)p.step_token;
  const u64 counted = (u64)p.first + walked;
  i64 value = 0;
  if (p.position_type != NO_POSITIONS) {
    const char* address = p.positions + axis * p.position_axis + batch * p.position_batch + row * p.position_token;
    value = p.position_type == INT32 ? (i64)load<int>(address) : load<i64>(address);
  }
  const u64 sum = (u64)value + counted;
  position = (i64)sum;
  const bool overflows = (i64)(((sum ^ (u64)value) & (sum ^ counted)) |
                               ((counted ^ (u64)p.first) & (counted ^ walked))) < 0;
  return !overflows && (p.limit == NO_LIMIT || position < p.limit);
}

// A position on an axis. False where its row is NaN.
template <int TRIG>
__device__ __forceinline__ bool find_position(const Parameters& p, int axis, int batch, int row,
                                              Position& position) {
  if (TRIG != FLOATS) {
    i64 value;
    const bool fits = find_integer(p, axis, batch, row, value);
    position.negative = value < 0;
    position.whole = value < 0 ? 0 - (u64)value : (u64)value;
    position.fraction = 0;
    return fits;
  }
  const char* address = p.positions + axis * p.position_axis + batch * p.position_batch + row * p.position_token;
  const double given = p.position_type == FLOAT32 ? (double)load<float>(address) : load<double>(address);
  const u64 counted = (u64)p.first + (u64)batch * (u64)p.step_batch + (u64)(i64)row * (u64)p.step_token;
  const double value = given + (double)(i64)counted;
  const double size = fabs(value);
  // What is not a number fits nowhere.
  if (!(size < 9223372036854775808.0) || !(value < (double)p.limit)) return false;
  position.negative = value < 0;
  position.whole = (u64)size;
  // Both the difference and the product are exact, but for digits below 2^-64, which are cut.
  position.fraction = (u64)((size - (double)position.whole) * 18446744073709551616.0);
  return true;
}

// ------------------------------------------------------------------------------------------------
// Phases: fractions of a turn in units of 2^-64, and for doubles of 2^-128.

struct Phase {
  u64 high, low;
};

template <bool WIDE, bool FRACTIONAL>
__device__ __forceinline__ void add_turns(Phase& phase, const Position& position, u64 whole, u64 high, u64 low) {
  u64 more = position.whole * high + __umul64hi(position.whole, low);
  u64 rest = WIDE ? position.whole * low : 0;
  if (FRACTIONAL) {
    more += position.fraction * whole + __umul64hi(position.fraction, high);
    if (WIDE) {
      const u64 part = position.fraction * high + __umul64hi(position.fraction, low);
      rest += part;
      more += rest < part;
    }
  }
  // Minus a number is its complement plus one.
  if (position.negative) {
    rest = 0 - rest;
    more = ~more + (rest == 0);
  }
  phase.low += rest;
  phase.high += more + (WIDE && phase.low < rest);
}

// What is left after whole quarters of a turn, in radians: a sum of two numbers, the second one far smaller. Words are
// signed, so that they do not cancel.
__device__ __forceinline__ void radians(i64 rest, u64, float& y, float& y_low) {
  const int high = (int)((rest + (1LL << 31)) >> 32), low = (int)rest;
  const float head = (float)high;
  const float tail = fmaf((float)low, 0x1p-32f, (float)(high - (int)head));
  y = product(head, 0x1.921fb6p-30f);  // 2 pi 2^-32
  y_low = fmaf(tail, 0x1.921fb6p-30f, fmaf(head, -0x1.777a5cp-55f, fmaf(head, 0x1.921fb6p-30f, -y)));
}

__device__ __forceinline__ void radians(i64 rest, u64 low, double& y, double& y_low) {
  rest += (i64)(low >> 63);
  const double head = (double)rest;
  const double tail = fma((double)(i64)low, 0x1p-64, (double)(rest - (i64)head));
  y = product(head, 0x1.921fb54442d18p-62);  // 2 pi 2^-64
  y_low = fma(tail, 0x1.921fb54442d18p-62,
              fma(head, 0x1.1a62633145c07p-116, fma(head, 0x1.921fb54442d18p-62, -y)));
}

// Polynomials for |y| <= pi / 4 and z = y^2, with the least relative error, 2^-32 for floats and 2^-57 for doubles, as
// docs/derivations/cuda.py finds them:
// sin y = y - y^3 sixth + y^5 sine_series(z), cos y = 1 - z / 2 + z^2 cosine_series(z).
__device__ __forceinline__ float sixth(float) { return 0x1.555556p-3f; }
__device__ __forceinline__ double sixth(double) { return 0x1.5555555555548p-3; }

__device__ __forceinline__ float sine_series(float z) {
  return fmaf(fmaf(0x1.7c2da2p-19f, z, -0x1.a05956p-13f), z, 0x1.111174p-7f);
}

__device__ __forceinline__ float cosine_series(float z) {
  return fmaf(fmaf(0x1.99e80cp-16f, z, -0x1.6c0c28p-10f), z, 0x1.55554ap-5f);
}

__device__ __forceinline__ double sine_series(double z) {
  double s = fma(0x1.5d8b5535058b4p-33, z, -0x1.ae5e4b82c009bp-26);
  s = fma(s, z, 0x1.71de35552a2dep-19);
  s = fma(s, z, -0x1.a01a019be920bp-13);
  return fma(s, z, 0x1.111111110f73p-7);
}

__device__ __forceinline__ double cosine_series(double z) {
  double c = fma(-0x1.8fa684c80543p-37, z, 0x1.1ee9dbcf5c403p-29);
  c = fma(c, z, -0x1.27e4f7f191a89p-22);
  c = fma(c, z, 0x1.a01a019c8f258p-16);
  c = fma(c, z, -0x1.6c16c16c15015p-10);
  return fma(c, z, 0x1.555555555554bp-5);
}

// Cosine and sine of a phase, times the factor; each is the sum of two numbers until it is rounded.
template <typename Real>
__device__ __forceinline__ void cos_sin(const Phase& phase, Real factor, Real factor_low, Real& cosine, Real& sine) {
  const u64 quarter = (phase.high + (1ULL << 61)) >> 62;
  Real y, y_low;
  radians((i64)(phase.high - (quarter << 62)), phase.low, y, y_low);
  const Real z = product(y, y);
  const Real z_low = fused(y, y, -z);
  const Real cube = product(y, z);
  const Real cube_low = fused(y, z_low, fused(y, z, -cube));

  const Real c = fused((Real)-0.5, z, (Real)1);
  const Real c_lost = fused((Real)-0.5, z, (Real)1 - c);
  const Real s_less = product(cube, sixth(y));
  const Real s_less_low = fused(cube_low, sixth(y), fused(cube, sixth(y), -s_less));
  const Real s = y - s_less;
  const Real s_lost = (y - s) - s_less;
  // cos(y + y_low) = cos y - y_low sin y, sin(y + y_low) = sin y + y_low cos y
  const Real c_small = fused((Real)-0.5, z_low, fused(product(z, z), cosine_series(z), -product(y_low, s)));
  const Real s_small = fused(product(cube, z), sine_series(z), fused(y_low, c, -s_less_low));
  const Real c_low = c_lost + c_small;
  const Real s_low = s_lost + s_small;
  const Real c_all = fused(c, factor, fused(c, factor_low, product(c_low, factor)));
  const Real s_all = fused(s, factor, fused(s, factor_low, product(s_low, factor)));
  const bool odd = quarter & 1;
  cosine = odd ? s_all : c_all;
  sine = odd ? c_all : s_all;
  if ((quarter + 1) & 2) cosine = -cosine;
  if (quarter & 2) sine = -sine;
}

__device__ __forceinline__ void factor_of(const Parameters& p, float& factor, float& low) {
  factor = p.factor_high;
  low = p.factor_low;
}

__device__ __forceinline__ void factor_of(const Parameters& p, double& factor, double& low) {
  factor = p.factor;
  low = 0;
}

// Cosine and sine of the pairs of a chunk at a token's position. False where they are NaN.
template <int TRIG, typename R, int WIDTH, typename Real>
__device__ __forceinline__ bool make_angles(const Parameters& p, int head, int token, int chunk,
                                            Real (&cosine)[WIDTH], Real (&sine)[WIDTH]) {
  int batch, row;
  if (!find_row(p, token, batch, row)) return false;
  if (TRIG == TABLE) {
    i64 entry;
    if (!find_integer(p, 0, batch, row, entry) || (u64)entry >= (u64)p.rows) return false;
    const i64 place = entry * p.table_row + head * p.trig_head;
#pragma unroll
    for (int k = 0; k < R::COUNT; ++k) {
      const i64 at = place + R::pair(k, chunk, p.pairs) * (i64)sizeof(Real);
      load_run<R::SIZE>(cosine + k * R::SIZE, p.cosine + at);
      load_run<R::SIZE>(sine + k * R::SIZE, p.sine + at);
    }
    return true;
  }
  constexpr bool WIDE = sizeof(Real) == 8, FRACTIONAL = TRIG == FLOATS;
  constexpr int PIECE = R::SIZE > 1 ? 2 : 1;  // pairs whose turns fill a vector
  const i64 plane = p.pairs * (i64)sizeof(u64);
  Phase phases[WIDTH];
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) phases[i].high = phases[i].low = 0;
#pragma unroll 1
  for (int axis = 0; axis < p.axes; ++axis) {
    Position position;
    if (!find_position<TRIG>(p, axis, batch, row, position)) return false;
    const char* turns = p.turns + head * p.trig_head + axis * 3 * plane;
#pragma unroll
    for (int i = 0; i < WIDTH; i += PIECE) {
      const char* at = turns + (R::pair(i / R::SIZE, chunk, p.pairs) + i % R::SIZE) * (i64)sizeof(u64);
      u64 whole[PIECE], high[PIECE], low[PIECE];
      if (FRACTIONAL) load_run<PIECE>(whole, at);
      load_run<PIECE>(high, at + plane);
      load_run<PIECE>(low, at + 2 * plane);
#pragma unroll
      for (int j = 0; j < PIECE; ++j) {
        add_turns<WIDE, FRACTIONAL>(phases[i + j], position, FRACTIONAL ? whole[j] : 0, high[j], low[j]);
      }
    }
  }
  Real factor, factor_low;
  factor_of(p, factor, factor_low);
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) cos_sin(phases[i], factor, factor_low, cosine[i], sine[i]);
  return true;
}

// ------------------------------------------------------------------------------------------------
// The kernel. Threads of a block lie along chunks (x), heads (y) and tokens (z), blocks along tokens (x), heads (y) and
// chunks (z). A thread turns its chunk of every head that its y reaches, two heads at a time, so that there is more to
// load while it waits.

template <typename T, int WIDTH, int SOURCE, int TARGET, int TRIG>
__device__ __forceinline__ void rotate(const Parameters& p) {
  typedef typename RealOf<T>::type Real;
  typedef Runs<WIDTH, SOURCE, TARGET> R;
  typedef Pairs<T, WIDTH, SOURCE, R::SIZE> Source;
  typedef Pairs<T, WIDTH, TARGET, R::SIZE> Target;

  const unsigned token = blockIdx.x * blockDim.z + threadIdx.z;
  const unsigned first_head = blockIdx.y * blockDim.y + threadIdx.y, step = gridDim.y * blockDim.y;
  const int chunk = blockIdx.z * blockDim.x + threadIdx.x;
  if (token >= (unsigned)p.tokens) return;
  if (first_head >= (unsigned)max(p.arrays[0].heads, p.arrays[1].heads)) return;
  const int batch = token / (unsigned)p.length, s = token - batch * p.length;

  if (chunk < p.pairs / WIDTH) {
    Real cosine[WIDTH], sine[WIDTH];
    if (make_angles<TRIG, R>(p, first_head, token, chunk, cosine, sine)) {
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) sine[i] *= (Real)p.sine_sign;
    } else {
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) cosine[i] = sine[i] = (Real)__int_as_float(0x7fc00000);
    }
#pragma unroll 1
    for (int k = 0; k < 2; ++k) {
      const Array& array = p.arrays[k];
      const i64 window = p.start * (i64)sizeof(T);
      const char* x = array.x + (batch * array.x_batch + s * array.x_token + window + Source::place(chunk, p.source));
      char* y = array.y + (batch * array.y_batch + s * array.y_token + window + Target::place(chunk, p.target));
#pragma unroll 1
      for (unsigned head = first_head; head < (unsigned)array.heads; head += 2 * step) {
        const unsigned other = head + step;
        const bool both = other < (unsigned)array.heads;
        Source x_head, x_other;
        x_head.load(x + head * array.x_head, p.pairs, p.source);
        if (both) x_other.load(x + other * array.x_head, p.pairs, p.source);
        Target result;
        turn<WIDTH>(result, x_head, cosine, sine);
        result.store(y + head * array.y_head, p.pairs, p.target);
        if (both) {
          turn<WIDTH>(result, x_other, cosine, sine);
          result.store(y + other * array.y_head, p.pairs, p.target);
        }
      }
    }
  }

  // The channels before and after the window.
  const int others = p.width - 2 * p.pairs, stride = gridDim.z * blockDim.x * WIDTH;
#pragma unroll 1
  for (int k = 0; k < 2; ++k) {
    const Array& array = p.arrays[k];
    if (!array.copy) continue;
    const char* x = array.x + (batch * array.x_batch + s * array.x_token);
    char* y = array.y + (batch * array.y_batch + s * array.y_token);
#pragma unroll 1
    for (unsigned head = first_head; head < (unsigned)array.heads; head += step) {
#pragma unroll 1
      for (int i = chunk * WIDTH; i < others; i += stride) {
        const i64 at = (i < p.start ? i : i + 2 * p.pairs) * (i64)sizeof(T);
        Vector<T, WIDTH> vector;
        vector.load(x + head * array.x_head + at);
        vector.store(y + head * array.y_head + at);
      }
    }
  }
}

// Of the registers three blocks at a time leave enough, but for floating positions and two different layouts. The name
// is C's, for CuPy keeps compiled templates on disk only in its latest versions.
#define ROTARY_KERNEL(NAME, T, WIDTH, SOURCE, TARGET, TRIG)                                       \
  extern "C" __global__ void __launch_bounds__(256, SOURCE == TARGET && TRIG != FLOATS ? 3 : 2)   \
      NAME(const __grid_constant__ Parameters p) {                                                \
    rotate<T, WIDTH, SOURCE, TARGET, TRIG>(p);                                                    \
  }
