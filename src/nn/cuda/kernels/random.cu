// Dropout masks from the counter-based generator of nn::NoiseStream: the same bits as on the processor.
#include "common.cuh"

// One round of Philox4x32 (Salmon et al. 2011).
__device__ __forceinline__ void philox_round(u32 (&c)[4], u32 k0, u32 k1) {
    u64 p0 = u64(0xD2511F53u) * c[0], p1 = u64(0xCD9E8D57u) * c[2];
    u32 next[4] = {u32(p1 >> 32) ^ c[1] ^ k0, u32(p1), u32(p0 >> 32) ^ c[3] ^ k1, u32(p0)};
    for (int i = 0; i < 4; i++) c[i] = next[i];
}

// y = x kept / p where a word of the stream, which begins at `block`, is below `limit` (p = limit / 2^32), else 0; four
// numbers a block. Serves the gradient as well.
template <class T>
__device__ void dropout(const T *x, T *y, u64 seed, u64 block, u32 purpose, u32 lane, u64 limit, Acc<T> scale, i64 count) {
    for (i64 i = thread_place(); 4 * i < count; i += thread_count()) {
        u64 place = block + u64(i);
        u32 c[4] = {u32(place), u32(place >> 32), purpose, lane};
        u32 k0 = u32(seed), k1 = u32(seed >> 32);
        for (int round = 0; round < 10; round++) {
            philox_round(c, k0, k1);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        for (int j = 0; j < 4 && 4 * i + j < count; j++)
            y[4 * i + j] = store<T>(u64(c[j]) < limit ? load(x[4 * i + j]) * scale : Acc<T>(0));
    }
}

#define ENTRY(T, S)                                                                                                          \
    extern "C" __global__ void dropout_##S(const T *x, T *y, u64 seed, u64 block, u32 purpose, u32 lane, u64 limit, double scale, u64 count) { \
        dropout(x, y, seed, block, purpose, lane, limit, Acc<T>(scale), i64(count));                                         \
    }
FOR_TYPES(ENTRY)
