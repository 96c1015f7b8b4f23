// What Python calls; stands after rotate.cu, which knows nothing of it.
#pragma once

#ifdef EMULATION_SANITIZED
#include <sanitizer/asan_interface.h>
#endif

namespace emulation {

struct Kernel {
  void (*run)(Parameters);
  bool flushes;  // whether subnormal numbers count as zero
};
static std::map<std::string, Kernel> kernels;

// Which thread runs as the i-th of n: in order (0), backwards (1), or any other number, a permutation by it.
static inline uint64_t permuted(uint64_t i, uint64_t n, uint64_t order) {
  if (order == 0) return i;
  if (order == 1) return n - 1 - i;
  uint64_t factor = order % n ? order % n : 1;
  while (std::gcd(factor, n) != 1) ++factor;
  return (uint64_t)(((unsigned __int128)i * factor + order) % n);
}

}  // namespace emulation

extern "C" {

const char* emulation_names() {
  static std::string names;
  names.clear();
  for (const auto& item : emulation::kernels) names += item.first + "\n";
  return names.c_str();
}

// 0, or what CUDA calls the error.
int emulation_launch(const char* name, const unsigned* grid, const unsigned* block, const void* parameters,
                     uint64_t order) {
  const auto found = emulation::kernels.find(name);
  if (found == emulation::kernels.end()) return 500;  // cudaErrorSymbolNotFound
  const uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
  const uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
  const bool grid_fits = blocks && grid[0] <= 0x7fffffffu && grid[1] <= 65535 && grid[2] <= 65535;
  const bool block_fits = threads && threads <= 1024 && block[0] <= 1024 && block[1] <= 1024 && block[2] <= 64;
  if (!grid_fits || !block_fits) return 9;  // cudaErrorInvalidConfiguration
  if (threads > 256) return 701;            // cudaErrorLaunchOutOfResources: beyond __launch_bounds__
  Parameters copied;
  std::memcpy(&copied, parameters, sizeof copied);
  const unsigned state = _mm_getcsr();
  // As with -ftz=true, which is of float alone. The processor's switch is of double too; where instances that compute
  // in float read positions in double, they cut them far above what is subnormal.
  if (found->second.flushes) _mm_setcsr(state | 0x8040);
  gridDim = dim3(grid[0], grid[1], grid[2]);
  blockDim = dim3(block[0], block[1], block[2]);
  for (uint64_t i = 0; i < threads * blocks; ++i) {
    const uint64_t thread = emulation::permuted(i, threads * blocks, order);
    const uint64_t of_block = thread / threads, in_block = thread % threads;
    blockIdx = make_uint3(of_block % grid[0], of_block / grid[0] % grid[1], of_block / grid[0] / grid[1]);
    threadIdx = make_uint3(in_block % block[0], in_block / block[0] % block[1], in_block / block[0] / block[1]);
    emulation::warp = (uint32_t)(of_block * ((threads + 31) / 32) + in_block / 32);
    emulation::nth = 0;
    found->second.run(copied);
  }
  _mm_setcsr(state);
  return 0;
}

size_t emulation_trace(const void** first) {
  *first = emulation::accesses.data();
  return emulation::accesses.size();
}

void emulation_forget() { emulation::accesses.clear(); }

void emulation_poison(const void* address, size_t bytes, int poisoned) {
#ifdef EMULATION_SANITIZED
  if (poisoned) __asan_poison_memory_region(address, bytes);
  else __asan_unpoison_memory_region(address, bytes);
#else
  (void)address, (void)bytes, (void)poisoned;
#endif
}

// Of one angle alone, for the tests of accuracy: times a factor, at as many phases or positions.
void emulation_angles(int wide, const i64* integers, const double* floats, size_t count, const u64* turns,
                      double factor, double* cosine, double* sine) {
  Parameters p;
  std::memset(&p, 0, sizeof p);
  p.limit = NO_LIMIT;
  p.factor = factor;
  p.factor_high = (float)factor;
  p.factor_low = (float)(factor - p.factor_high);
  p.tokens = p.length = (int)count;
  p.pairs = p.axes = 1;
  p.turns = (const char*)turns;
  p.positions = integers ? (const char*)integers : (const char*)floats;
  p.position_type = integers ? INT64 : FLOAT64;
  p.position_token = 8;
  for (size_t i = 0; i < count; ++i) {
    if (wide) {
      double c[1], s[1];
      const bool known = integers ? make_angles<INTEGERS, Runs<1, ANY, ANY>>(p, 0, (int)i, 0, c, s)
                                  : make_angles<FLOATS, Runs<1, ANY, ANY>>(p, 0, (int)i, 0, c, s);
      cosine[i] = known ? c[0] : NAN;
      sine[i] = known ? s[0] : NAN;
    } else {
      float c[1], s[1];
      const bool known = integers ? make_angles<INTEGERS, Runs<1, ANY, ANY>>(p, 0, (int)i, 0, c, s)
                                  : make_angles<FLOATS, Runs<1, ANY, ANY>>(p, 0, (int)i, 0, c, s);
      cosine[i] = known ? c[0] : NAN;
      sine[i] = known ? s[0] : NAN;
    }
  }
}

}  // extern "C"
