// Runs CUDA C++ kernels on the CPU, to test what they compute: the threads of a block are fibers that go on in
// turn from one barrier, shuffle or vote to the next. All threads of a block must meet the same ones in the same
// order, which is checked.

#define EMULATED
#include <ucontext.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static

struct uint4 {
  unsigned int x, y, z, w;
};
struct Place {
  int x, y;
};
static Place blockIdx, threadIdx;

namespace emulation {
constexpr int COUNT = 128;
constexpr int STACK = 1 << 17;
static ucontext_t scheduler, fibers[COUNT];
static bool finished[COUNT];
static char met[COUNT];  // what a fiber waits at
static double values[COUNT];
struct Copy {
  uint4* to;
  const uint4* from;
  bool here;
};
static std::vector<Copy> asked[COUNT];
static std::deque<std::vector<Copy>> steps[COUNT];
static bool failed;
static void (*body)(void**);
static void** arguments;

inline void wait(char what) {
  const int me = threadIdx.x;
  met[me] = what;
  swapcontext(&fibers[me], &scheduler);
}

inline void start() {
  const int me = threadIdx.x;
  body(arguments);
  finished[me] = true;
  met[me] = 'e';
  swapcontext(&fibers[me], &scheduler);
}

inline void run_block() {
  static std::unique_ptr<char[]> stacks(new char[COUNT * STACK]);
  for (int i = 0; i < COUNT; i++) {
    finished[i] = false;
    asked[i].clear();
    steps[i].clear();
    getcontext(&fibers[i]);
    fibers[i].uc_stack.ss_sp = stacks.get() + i * STACK;
    fibers[i].uc_stack.ss_size = STACK;
    fibers[i].uc_link = &scheduler;
    makecontext(&fibers[i], start, 0);
  }
  while (!finished[0] && !failed) {
    for (int i = 0; i < COUNT; i++) {
      threadIdx.x = i;
      swapcontext(&scheduler, &fibers[i]);
      failed = failed || met[i] != met[0];
    }
  }
}

template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void** pointers, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_const_t<A>*>(pointers[I])...);
}
template <class... A>
void unpack(void (*kernel)(A...), void** pointers) {
  call(kernel, pointers, std::index_sequence_for<A...>());
}
}  // namespace emulation

inline void __syncthreads() { emulation::wait('b'); }

template <class T>
T __shfl_xor_sync(unsigned int, T value, int apart) {
  const int me = threadIdx.x;
  emulation::values[me] = value;
  emulation::wait('s');
  const T found = static_cast<T>(emulation::values[me ^ apart]);
  emulation::wait('r');
  return found;
}

template <class T>
T __shfl_sync(unsigned int, T value, int lane) {
  const int me = threadIdx.x;
  emulation::values[me] = value;
  emulation::wait('f');
  const T found = static_cast<T>(emulation::values[me / 32 * 32 + lane]);
  emulation::wait('g');
  return found;
}

inline unsigned int __ballot_sync(unsigned int, bool vote) {
  const int me = threadIdx.x;
  emulation::values[me] = vote;
  emulation::wait('v');
  unsigned int votes = 0;
  for (int lane = 0; lane < 32; lane++)
    votes |= static_cast<unsigned int>(emulation::values[me / 32 * 32 + lane] != 0) << lane;
  emulation::wait('w');
  return votes;
}

// What is copied ahead is NaN until it has been waited for.
inline void copy_ahead(uint4* to, const uint4* from, bool here) {
  std::memset(to, 0xff, sizeof(*to));
  emulation::asked[threadIdx.x].push_back({to, from, here});
}
inline void end_of_step() {
  emulation::steps[threadIdx.x].push_back(std::exchange(emulation::asked[threadIdx.x], {}));
}
template <int LEFT>
void wait_for_steps() {
  auto& steps = emulation::steps[threadIdx.x];
  for (; steps.size() > LEFT; steps.pop_front())
    for (const auto& copy : steps.front()) *copy.to = copy.here ? *copy.from : uint4{};
}

inline int __popc(unsigned int bits) { return __builtin_popcount(bits); }

#define EMULATE(kernel)                                              \
  extern "C" int emulate_##kernel(int across, int down, void** pointers) { \
    emulation::body = [](void** given) { emulation::unpack(kernel, given); }; \
    emulation::arguments = pointers;                                 \
    emulation::failed = false;                                       \
    for (blockIdx.y = 0; blockIdx.y < down; blockIdx.y++)            \
      for (blockIdx.x = 0; blockIdx.x < across; blockIdx.x++) emulation::run_block(); \
    return emulation::failed;                                        \
  }
