// The cache's operations in CUDA C++: append, gather and decode attention over ragged segments.
//
// Compiled for one shape at a time (see ../cuda_build.py): SCALAR (float, __half, __nv_bfloat16), HEAD_DIM, GROUP
// (query heads of a KV head) and the chunk sizes of ../work_list.py. Shapes and layouts are those of the Triton
// kernels of the same names. Blocks have THREADS threads.

#ifndef EMULATED
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / 32;
constexpr int VECTOR = 16 / sizeof(SCALAR);  // elements of one load of 16 bytes

constexpr int power_of_two(int n) { return n > 1 ? 2 * power_of_two((n + 1) / 2) : 1; }
__host__ __device__ constexpr int least(int a, int b) { return a < b ? a : b; }

constexpr int PACKS = HEAD_DIM / VECTOR;               // loads of 16 bytes in a row
constexpr int TEAM = least(32, power_of_two(PACKS));   // neighbouring lanes that read one row together
constexpr int SHARE = (PACKS + TEAM - 1) / TEAM;       // loads of a lane
constexpr int TEAMS = THREADS / TEAM;
constexpr int ROWS = (GROUP > 4 ? 2 : 4) / SHARE;      // rows of a team in a step
constexpr int STEP = TEAMS * ROWS;                     // slots of a step
constexpr int AHEAD = 12 / (ROWS * SHARE);             // steps under way: 48 KB of shared memory
static_assert(HEAD_DIM % VECTOR == 0, "rows must be whole loads of 16 bytes");

__device__ inline float as_float(float x) { return x; }
__device__ inline void from_float(float x, float* to) { *to = x; }
#ifndef EMULATED
__device__ inline float as_float(__half x) { return __half2float(x); }
__device__ inline float as_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void from_float(float x, __half* to) { *to = __float2half_rn(x); }
__device__ inline void from_float(float x, __nv_bfloat16* to) { *to = __float2bfloat16_rn(x); }

// Copies of 16 bytes to shared memory that a thread does not wait for; zeros where there is nothing to copy.
// Loads into registers would not be ahead: the assembler moves each behind the use of the one before.
__device__ inline void copy_ahead(uint4* to, const uint4* from, bool here) {
  const unsigned int place = static_cast<unsigned int>(__cvta_generic_to_shared(to));
  const int bytes = here ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void end_of_step() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
__device__ inline void wait_for_steps() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }
#endif

// The elements of a pack in float32.
__device__ inline void unpack(const uint4& from, float* to) {
  SCALAR element[VECTOR];
  memcpy(element, &from, sizeof(from));
#pragma unroll
  for (int i = 0; i < VECTOR; i++) to[i] = as_float(element[i]);
}

__device__ inline int chunk_begin(int chunk) {
  if (chunk < PER_SIZE) return chunk * SHORT;
  if (chunk < 2 * PER_SIZE) return MIDDLE_FROM + (chunk - PER_SIZE) * MIDDLE;
  return LONG_FROM + (chunk - 2 * PER_SIZE) * LONG;
}

__device__ inline int chunk_count(int length) {
  if (length <= MIDDLE_FROM) return (length + SHORT - 1) / SHORT;
  if (length <= LONG_FROM) return PER_SIZE + (length - MIDDLE_FROM + MIDDLE - 1) / MIDDLE;
  return 2 * PER_SIZE + (length - LONG_FROM + LONG - 1) / LONG;
}

// One chunk of one segment: partial [P, G, D] (normalised) and its log-sum-exp to base 2, sums [P, G].
// A thread reads what it has copied itself, so nobody waits for another before the end.
extern "C" __global__ void __launch_bounds__(THREADS, GROUP < 8 ? 3 : 2) attend_chunk(
    const SCALAR* queries, const SCALAR* keys, const SCALAR* values, const long long* starts,
    const long long* lengths, const int* segments, const int* chunks, const int* firsts, float* partial,
    float* sums, float scaling, long long query_row, long long query_head, int heads) {
  __shared__ uint4 ahead[AHEAD][2][ROWS][SHARE][THREADS];
  const int segment = segments[blockIdx.x], chunk = chunks[blockIdx.x];
  const int begin = chunk_begin(chunk), length = static_cast<int>(lengths[segment]);
  const long long start = starts[segment], place = firsts[segment] + chunk;
  if (begin >= length) return;
  const int end = least(chunk_begin(chunk + 1), length);
  const int steps = (end - begin + STEP - 1) / STEP;
  const int lane = threadIdx.x % TEAM, team = threadIdx.x / TEAM;

  const auto ask = [&](int step) {
    if (step < steps) {
#pragma unroll
      for (int row = 0; row < ROWS; row++) {
        const int slot = begin + step * STEP + row * TEAMS + team;
#pragma unroll
        for (int share = 0; share < SHARE; share++) {
          const int pack = lane + share * TEAM;
          const bool here = slot < end && pack < PACKS;
          const long long from = here ? (start + slot) * PACKS + pack : 0;
          auto& to = ahead[step % AHEAD];
          copy_ahead(&to[0][row][share][threadIdx.x], reinterpret_cast<const uint4*>(keys) + from, here);
          copy_ahead(&to[1][row][share][threadIdx.x], reinterpret_cast<const uint4*>(values) + from, here);
        }
      }
    }
    end_of_step();
  };
  for (int step = 0; step < AHEAD; step++) ask(step);

  float query[GROUP][SHARE * VECTOR], out[GROUP][SHARE * VECTOR], top[GROUP], total[GROUP];
  const SCALAR* mine = queries + (segment / heads) * query_row + (segment % heads) * GROUP * query_head;
  for (int member = 0; member < GROUP; member++) {
    top[member] = -INFINITY;
    total[member] = 0.f;
    for (int i = 0; i < SHARE * VECTOR; i++) {
      const int dim = (lane + i / VECTOR * TEAM) * VECTOR + i % VECTOR;
      query[member][i] =
          dim < HEAD_DIM ? as_float(mine[member * query_head + dim]) * scaling * 1.44269504f : 0.f;
      out[member][i] = 0.f;
    }
  }

  for (int step = 0; step < steps; step++) {
    wait_for_steps<AHEAD - 1>();
    float entry[SHARE * VECTOR], weight[GROUP][ROWS];
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
#pragma unroll
      for (int share = 0; share < SHARE; share++)
        unpack(ahead[step % AHEAD][0][row][share][threadIdx.x], entry + share * VECTOR);
      const bool here = begin + step * STEP + row * TEAMS + team < end;
#pragma unroll
      for (int member = 0; member < GROUP; member++) {
        float product = 0.f;
#pragma unroll
        for (int i = 0; i < SHARE * VECTOR; i++) product += query[member][i] * entry[i];
#pragma unroll
        for (int by = TEAM / 2; by > 0; by /= 2) product += __shfl_xor_sync(0xffffffffu, product, by);
        weight[member][row] = here ? product : -INFINITY;
      }
    }
#pragma unroll
    for (int member = 0; member < GROUP; member++) {
      float higher = top[member];
#pragma unroll
      for (int row = 0; row < ROWS; row++) higher = fmaxf(higher, weight[member][row]);
      const float safe = higher > -INFINITY ? higher : 0.f;  // a team may have no slot yet
      const float shrink = exp2f(top[member] - safe);
      top[member] = higher;
      total[member] *= shrink;
#pragma unroll
      for (int i = 0; i < SHARE * VECTOR; i++) out[member][i] *= shrink;
#pragma unroll
      for (int row = 0; row < ROWS; row++) {
        weight[member][row] = exp2f(weight[member][row] - safe);
        total[member] += weight[member][row];
      }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
#pragma unroll
      for (int share = 0; share < SHARE; share++)
        unpack(ahead[step % AHEAD][1][row][share][threadIdx.x], entry + share * VECTOR);
#pragma unroll
      for (int member = 0; member < GROUP; member++)
#pragma unroll
        for (int i = 0; i < SHARE * VECTOR; i++) out[member][i] += weight[member][row] * entry[i];
    }
    ask(step + AHEAD);
  }

  // The teams' results, where the copies were.
  float* const team_out = reinterpret_cast<float*>(ahead);
  float* const team_top = team_out + GROUP * TEAMS * HEAD_DIM;
  float* const team_total = team_top + GROUP * TEAMS;
  static_assert(GROUP * TEAMS * (HEAD_DIM + 2) * sizeof(float) <= sizeof(ahead), "fewer query heads");
  __syncthreads();
#pragma unroll
  for (int member = 0; member < GROUP; member++) {
    if (lane == 0) {
      team_top[member * TEAMS + team] = top[member];
      team_total[member * TEAMS + team] = total[member];
    }
#pragma unroll
    for (int i = 0; i < SHARE * VECTOR; i++) {
      const int dim = (lane + i / VECTOR * TEAM) * VECTOR + i % VECTOR;
      if (dim < HEAD_DIM) team_out[(member * TEAMS + team) * HEAD_DIM + dim] = out[member][i];
    }
  }
  __syncthreads();
  for (int at = threadIdx.x; at < GROUP * HEAD_DIM; at += THREADS) {
    const int member = at / HEAD_DIM, dim = at % HEAD_DIM;
    float whole_top = -INFINITY, whole = 0.f, sum = 0.f;
    const int from = member * TEAMS;
    for (int team = from; team < from + TEAMS; team++) whole_top = fmaxf(whole_top, team_top[team]);
    for (int team = from; team < from + TEAMS; team++) {
      const float share = exp2f(team_top[team] - whole_top);
      whole += team_total[team] * share;
      sum += team_out[team * HEAD_DIM + dim] * share;
    }
    partial[place * GROUP * HEAD_DIM + at] = sum / whole;
    if (dim == 0) sums[place * GROUP + member] = whole_top + log2f(whole);
  }
}

// One query head: the partial results of its segment, weighted by their sums -> output [N, G, D].
// Every warp reads 32 sums at a time.
extern "C" __global__ void __launch_bounds__(THREADS) combine_chunks(
    const float* partial, const float* sums, const long long* lengths, const int* firsts, SCALAR* output) {
  constexpr int SHARES = (HEAD_DIM + THREADS - 1) / THREADS;
  const int segment = blockIdx.x / GROUP, member = blockIdx.x % GROUP, lane = threadIdx.x % 32;
  const int count = chunk_count(static_cast<int>(lengths[segment]));
  const long long first = firsts[segment];
  float top = -INFINITY, total = 0.f, sum[SHARES] = {};
  for (int at = lane; at < count; at += 32) top = fmaxf(top, sums[(first + at) * GROUP + member]);
  for (int apart = 16; apart > 0; apart /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, apart));
  for (int from = 0; from < count; from += 32) {
    const float mine = from + lane < count ? exp2f(sums[(first + from + lane) * GROUP + member] - top) : 0.f;
    total += mine;
    for (int part = from; part < least(from + 32, count); part += 8)
#pragma unroll
      for (int at = part; at < part + 8; at++) {
        const float weight = __shfl_sync(0xffffffffu, mine, at - from);
        const float* const there = partial + ((first + at) * GROUP + member) * HEAD_DIM + threadIdx.x;
#pragma unroll
        for (int share = 0; share < SHARES; share++)
          if (at < count && threadIdx.x + share * THREADS < HEAD_DIM)
            sum[share] += weight * there[share * THREADS];
      }
  }
  for (int apart = 16; apart > 0; apart /= 2) total += __shfl_xor_sync(0xffffffffu, total, apart);
  SCALAR* const mine = output + static_cast<long long>(blockIdx.x) * HEAD_DIM + threadIdx.x;
#pragma unroll
  for (int share = 0; share < SHARES; share++)
    if (threadIdx.x + share * THREADS < HEAD_DIM)
      from_float(count ? sum[share] / total : 0.f, mine + share * THREADS);
}

// One segment: new tokens [R, H, q, D] behind it; nobody else reads or writes its length.
extern "C" __global__ void __launch_bounds__(THREADS) append_tokens(
    const SCALAR* new_keys, const SCALAR* new_values, long long key_row, long long key_head,
    long long key_token, long long value_row, long long value_head, long long value_token, SCALAR* keys,
    SCALAR* values, long long* tokens, SCALAR* bias, const long long* starts, long long* lengths,
    const long long* seen, int fresh, int heads) {
  const int segment = blockIdx.x, row = segment / heads, head = segment % heads;
  const long long length = lengths[segment], first = starts[segment] + length;
  for (int step = 0; step < fresh; step++) {
    for (int dim = threadIdx.x; dim < HEAD_DIM; dim += THREADS) {
      const long long to = (first + step) * HEAD_DIM + dim;
      keys[to] = new_keys[row * key_row + head * key_head + step * key_token + dim];
      values[to] = new_values[row * value_row + head * value_head + step * value_token + dim];
    }
    if (threadIdx.x == 0) {
      tokens[first + step] = *seen + step;
      from_float(0.f, bias + first + step);
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) lengths[segment] = length + fresh;
}

// A stretch of `span` tokens of one row's head: counts what is kept before it, then copies its own.
extern "C" __global__ void __launch_bounds__(THREADS) gather_kept(
    const SCALAR* keys, const SCALAR* values, const unsigned char* keep, const long long* starts,
    SCALAR* out_keys, SCALAR* out_values, long long* out_tokens, long long key_head, long long key_token,
    long long value_head, long long value_token, int token_count, int shift, int heads, int span) {
  __shared__ int counted[WARPS], kept[THREADS];
  const int segment = blockIdx.x, head = segment % heads, begin = blockIdx.y * span;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned char* flags = keep + static_cast<long long>(segment) * token_count;
  int before = 0;
  for (int token = threadIdx.x; token < begin; token += THREADS) before += flags[token] != 0;
  for (int apart = 16; apart > 0; apart /= 2) before += __shfl_xor_sync(0xffffffffu, before, apart);
  if (lane == 0) counted[warp] = before;
  __syncthreads();
  long long slot = starts[segment];
  for (int other = 0; other < WARPS; other++) slot += counted[other];
  __syncthreads();
  for (int at = begin; at < least(begin + span, token_count); at += THREADS) {
    const int token = at + threadIdx.x;
    const bool here = token < least(begin + span, token_count) && flags[token];
    const unsigned int votes = __ballot_sync(0xffffffffu, here);
    if (lane == 0) counted[warp] = __popc(votes);
    __syncthreads();
    int place = __popc(votes & ((1u << lane) - 1u)), found = 0;
    for (int other = 0; other < WARPS; other++) {
      if (other < warp) place += counted[other];
      found += counted[other];
    }
    if (here) kept[place] = token;
    __syncthreads();
    for (int entry = warp; entry < found; entry += WARPS) {
#pragma unroll 1
      for (int dim = lane; dim < HEAD_DIM; dim += 32) {
        const long long to = (slot + entry) * HEAD_DIM + dim;
        out_keys[to] = keys[head * key_head + kept[entry] * key_token + dim];
        out_values[to] = values[head * value_head + kept[entry] * value_token + dim];
      }
      if (lane == 0) out_tokens[slot + entry] = kept[entry] + shift;
    }
    slot += found;
    __syncthreads();
  }
}
