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

constexpr int power_of_two(int n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}
__host__ __device__ constexpr int least(int a, int b) { return a < b ? a : b; }

constexpr int PACKS = HEAD_DIM / VECTOR;               // loads of 16 bytes in a row
constexpr int TEAM = least(32, power_of_two(PACKS));   // neighbouring lanes that read one row together
constexpr int SHARE = (PACKS + TEAM - 1) / TEAM;       // loads of a lane
constexpr int TEAMS = THREADS / TEAM;
constexpr int AHEAD = 4;                               // rows that a team loads before it uses them
static_assert(HEAD_DIM % VECTOR == 0, "rows must be whole loads of 16 bytes");

__device__ inline float as_float(float x) { return x; }
__device__ inline void from_float(float x, float* to) { *to = x; }
#ifndef EMULATED
__device__ inline float as_float(__half x) { return __half2float(x); }
__device__ inline float as_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void from_float(float x, __half* to) { *to = __float2half_rn(x); }
__device__ inline void from_float(float x, __nv_bfloat16* to) { *to = __float2bfloat16_rn(x); }
#endif

union Pack {
  uint4 raw;
  SCALAR element[VECTOR];
  __device__ Pack() : raw() {}
};

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
extern "C" __global__ void __launch_bounds__(THREADS) attend_chunk(
    const SCALAR* queries, const SCALAR* keys, const SCALAR* values, const long long* starts,
    const long long* lengths, const int* segments, const int* chunks, const int* firsts, float* partial,
    float* sums, float scaling, long long query_row, long long query_head, int heads) {
  const int segment = segments[blockIdx.x], chunk = chunks[blockIdx.x];
  const int begin = chunk_begin(chunk), length = static_cast<int>(lengths[segment]);
  if (begin >= length) return;
  const int end = least(chunk_begin(chunk + 1), length);
  const int lane = threadIdx.x % TEAM, team = threadIdx.x / TEAM;
  const long long start = starts[segment];

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

  // All lanes of a warp take part in every shuffle, so all teams make the same number of steps.
  for (int at = begin; at < end; at += TEAMS * AHEAD) {
    Pack key[AHEAD][SHARE], value[AHEAD][SHARE];
#pragma unroll
    for (int row = 0; row < AHEAD; row++) {
      const int slot = at + row * TEAMS + team;
#pragma unroll
      for (int share = 0; share < SHARE; share++) {
        const int pack = lane + share * TEAM;
        if (slot < end && pack < PACKS) {
          const long long from = (start + slot) * PACKS + pack;
          key[row][share].raw = reinterpret_cast<const uint4*>(keys)[from];
          value[row][share].raw = reinterpret_cast<const uint4*>(values)[from];
        }
      }
    }
#pragma unroll
    for (int member = 0; member < GROUP; member++) {
      float logit[AHEAD], higher = top[member];
#pragma unroll
      for (int row = 0; row < AHEAD; row++) {
        float product = 0.f;
#pragma unroll
        for (int i = 0; i < SHARE * VECTOR; i++)
          product += query[member][i] * as_float(key[row][i / VECTOR].element[i % VECTOR]);
#pragma unroll
        for (int apart = TEAM / 2; apart > 0; apart /= 2)
          product += __shfl_xor_sync(0xffffffffu, product, apart);
        logit[row] = at + row * TEAMS + team < end ? product : -INFINITY;
        higher = fmaxf(higher, logit[row]);
      }
      if (higher > -INFINITY) {
        const float shrink = exp2f(top[member] - higher);
        top[member] = higher;
        total[member] *= shrink;
#pragma unroll
        for (int i = 0; i < SHARE * VECTOR; i++) out[member][i] *= shrink;
#pragma unroll
        for (int row = 0; row < AHEAD; row++) {
          const float weight = exp2f(logit[row] - higher);
          total[member] += weight;
#pragma unroll
          for (int i = 0; i < SHARE * VECTOR; i++)
            out[member][i] += weight * as_float(value[row][i / VECTOR].element[i % VECTOR]);
        }
      }
    }
  }

  __shared__ float shared_out[TEAMS][HEAD_DIM], shared_top[TEAMS], shared_total[TEAMS];
  const long long place = firsts[segment] + chunk;
#pragma unroll
  for (int member = 0; member < GROUP; member++) {
    if (lane == 0) {
      shared_top[team] = top[member];
      shared_total[team] = total[member];
    }
#pragma unroll
    for (int i = 0; i < SHARE * VECTOR; i++) {
      const int dim = (lane + i / VECTOR * TEAM) * VECTOR + i % VECTOR;
      if (dim < HEAD_DIM) shared_out[team][dim] = out[member][i];
    }
    __syncthreads();
    float whole_top = -INFINITY, whole = 0.f;
    for (int other = 0; other < TEAMS; other++) whole_top = fmaxf(whole_top, shared_top[other]);
    for (int other = 0; other < TEAMS; other++)
      whole += shared_total[other] * exp2f(shared_top[other] - whole_top);
    for (int dim = threadIdx.x; dim < HEAD_DIM; dim += THREADS) {
      float sum = 0.f;
      for (int other = 0; other < TEAMS; other++)
        sum += shared_out[other][dim] * exp2f(shared_top[other] - whole_top);
      partial[(place * GROUP + member) * HEAD_DIM + dim] = sum / whole;
    }
    if (threadIdx.x == 0) sums[place * GROUP + member] = whole_top + log2f(whole);
    __syncthreads();
  }
}

// One query head: the partial results of its segment, weighted by their sums -> output [N, G, D].
extern "C" __global__ void __launch_bounds__(THREADS) combine_chunks(
    const float* partial, const float* sums, const long long* lengths, const int* firsts, SCALAR* output) {
  const int segment = blockIdx.x / GROUP, member = blockIdx.x % GROUP;
  const int count = chunk_count(static_cast<int>(lengths[segment]));
  const long long first = firsts[segment];
  float top = -INFINITY, total = 0.f;
  for (int part = 0; part < count; part++) top = fmaxf(top, sums[(first + part) * GROUP + member]);
  for (int part = 0; part < count; part++) total += exp2f(sums[(first + part) * GROUP + member] - top);
  for (int dim = threadIdx.x; dim < HEAD_DIM; dim += THREADS) {
    float sum = 0.f;
#pragma unroll 4
    for (int part = 0; part < count; part++) {
      const long long at = (first + part) * GROUP + member;
      sum += exp2f(sums[at] - top) * partial[at * HEAD_DIM + dim];
    }
    from_float(count ? sum / total : 0.f, output + static_cast<long long>(blockIdx.x) * HEAD_DIM + dim);
  }
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
