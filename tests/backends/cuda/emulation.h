// Lets a C++ compiler for the processor build rotate.cu: what CUDA has and C++ has not, and a loop over all threads.
//
// Types and their conversions are NVIDIA's own headers, which other compilers can read too. The kernel uses neither
// shared memory nor barriers nor other threads' registers, so that one thread may run after another, in any order.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <map>
#include <numeric>
#include <vector>

#include <xmmintrin.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_types.h>

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__
#undef __forceinline__
#define __forceinline__ inline

static thread_local uint3 threadIdx, blockIdx;
static thread_local dim3 blockDim, gridDim;

using std::fabs;
using std::fma;
using std::max;

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}

static inline float __fmul_rn(float a, float b) { return a * b; }
static inline double __dmul_rn(double a, double b) { return a * b; }

static inline float __int_as_float(int bits) {
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

namespace emulation {

struct Access {
  uint64_t address;
  uint32_t warp, nth, bytes, is_store;
};
// Static, for several builds of this may be loaded into one process.
static std::vector<Access> accesses;
static thread_local uint32_t warp, nth;

}  // namespace emulation

#ifdef EMULATION_TRACED
#define ROTARY_SEES(address, bytes, is_store)                                                                 \
  emulation::accesses.push_back(                                                                              \
      {(uint64_t)(address), emulation::warp, emulation::nth++, (uint32_t)(bytes), (uint32_t)(is_store)})
#endif
