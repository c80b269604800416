// Runs CUDA kernels on a processor, block by block, the threads of a block as fibers on one thread.
//
// Stands in for hardware.cuh: the kernels themselves are compiled unchanged. What it is strict about:
// - shared memory, and every buffer a kernel should fill, start as NaN (all bits set);
// - buffers and shared memory end at a page that cannot be touched;
// - fibers are resumed in a chosen order (forward, backward, shuffled): results that depend on it lack a barrier;
// - a copy beside the arithmetic is made no earlier than somebody waits for it;
// - a barrier that not all threads reach, or a warp-wide operation that not all lanes reach, ends the program.
// Tensor cores and matrix loads follow the register layouts of the PTX ISA (section 9.7.14).
#ifndef HARDWARE_CUH
#define HARDWARE_CUH
#define _XOPEN_SOURCE 700
#define _DARWIN_C_SOURCE
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define DYNAMIC_SHARED(name) unsigned char *name = emulated::shared

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
struct f16 { u16 bits; };
struct bf16 { u16 bits; };

struct Dim3 { unsigned x = 1, y = 1, z = 1; };
static Dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline float power_of_two(float x) { return exp2f(x); }
static inline float __uint_as_float(u32 x) { float y; memcpy(&y, &x, 4); return y; }
static inline u32 __float_as_uint(float x) { u32 y; memcpy(&y, &x, 4); return y; }

namespace emulated {

[[noreturn]] static void fail(const char *why) {
    fprintf(stderr, "emulated GPU: %s (block %u %u %u, thread %u)\n", why, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x);
    exit(3);
}

static size_t page() { return size_t(sysconf(_SC_PAGESIZE)); }

// Memory that ends (up to fifteen bytes, for alignment) at a page that cannot be touched.
struct Memory {
    unsigned char *start = nullptr;
    size_t size = 0, slack = 0;
    void allocate(size_t bytes) {
        size = bytes;
        slack = (16 - bytes % 16) % 16;
        size_t pages = (bytes + slack + page() - 1) / page() * page();
        void *all = mmap(nullptr, pages + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
        if (all == MAP_FAILED || mprotect((char *)all + pages, page(), PROT_NONE)) fail("no memory");
        start = (unsigned char *)all + pages - bytes - slack;
        memset(start, 0xff, bytes + slack);
    }
    void check() const {
        for (size_t i = 0; i < slack; i++)
            if (start[size + i] != 0xff) fail("a kernel wrote just behind a buffer");
    }
};

static unsigned char *shared = nullptr;

enum class Wait { None, Block, Warp, Done };
constexpr size_t STACK = 256 << 10;

// What a lane shows the others of its warp; two, because a lane may be one operation ahead of another.
struct Slot { double numbers[16]; const void *address; };

struct Fiber {
    jmp_buf state;
    ucontext_t first;
    unsigned char *stack = nullptr;
    bool begun = false, vote = false;
    Wait wait = Wait::None;
    u32 place = 0, exchanges = 0;
    Slot slots[2];
    std::vector<std::pair<void *, std::pair<const void *, bool>>> open;
    std::vector<std::vector<std::pair<void *, std::pair<const void *, bool>>>> groups;
};

static std::vector<Fiber> fibers;
static Fiber *current = nullptr;
static jmp_buf scheduler;
static ucontext_t scheduler_context;
static std::function<void()> body;

static void enter() {
    body();
    current->wait = Wait::Done;
    _longjmp(scheduler, 1);
}

static void pause(Wait wait) {
    current->wait = wait;
    if (!_setjmp(current->state)) _longjmp(scheduler, 1);
}

static void resume(Fiber &fiber) {
    current = &fiber;
    threadIdx.x = fiber.place;
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.state, 1);
    fiber.begun = true;
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = fiber.stack;
    fiber.first.uc_stack.ss_size = STACK;
    fiber.first.uc_link = nullptr;
    makecontext(&fiber.first, enter, 0);
    setcontext(&fiber.first);
}

// One block, its fibers in the given order.
static void run_block(const std::vector<u32> &order) {
    u32 threads = blockDim.x;
    if (fibers.size() < threads) fibers.resize(threads);
    for (u32 i = 0; i < threads; i++) {
        Fiber &fiber = fibers[i];
        if (!fiber.stack) fiber.stack = (unsigned char *)malloc(STACK);
        fiber.begun = false;
        fiber.wait = Wait::None;
        fiber.place = i;
        fiber.exchanges = 0;
    }
    for (;;) {
        for (u32 i : order)
            if (fibers[i].wait == Wait::None) resume(fibers[i]);
        u32 done = 0, at_block = 0;
        bool moved = false;
        for (u32 i = 0; i < threads; i++) {
            done += fibers[i].wait == Wait::Done;
            at_block += fibers[i].wait == Wait::Block;
        }
        if (done == threads) break;
        for (u32 warp = 0; warp < threads; warp += 32) {
            u32 lanes = threads - warp < 32 ? threads - warp : 32, ready = 0;
            for (u32 i = 0; i < lanes; i++) ready += fibers[warp + i].wait == Wait::Warp;
            if (ready != lanes) continue;
            moved = true;
            for (u32 i = 0; i < lanes; i++) fibers[warp + i].wait = Wait::None;
        }
        if (at_block == threads) {
            moved = true;
            for (u32 i = 0; i < threads; i++) fibers[i].wait = Wait::None;
        }
        if (!moved) fail("not every thread comes to a barrier");
    }
    for (u32 i = 0; i < threads; i++)
        if (!fibers[i].open.empty() || !fibers[i].groups.empty()) fail("a copy was never waited for");
}

static Slot &show() { return current->slots[current->exchanges % 2]; }
// Waits until every lane has shown its slot; gives the place of the warp's first fiber and which slot to look at.
static const Slot &of_lane(u32 lane, u32 which) { return fibers[current->place / 32 * 32 + lane].slots[which]; }
static u32 exchange() {
    u32 which = current->exchanges++ % 2;
    pause(Wait::Warp);
    return which;
}

static float half_to_float(u16 bits) {
    u32 sign = u32(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * std::ldexp(float(fraction), -24);
    return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}
// To the nearest, ties to even.
static u16 float_to_half(float x) {
    u32 bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return u16(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return u16(sign | 0x7c00);
    if (magnitude < 0x38800000) return u16(sign | u32(std::nearbyint(std::ldexp(double(std::fabs(x)), 24))));
    u32 rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return u16(sign | ((rounded >> 13) - (112 << 10)));
}
static u16 float_to_brain(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

} // namespace emulated

static inline float widen(f16 x) { return emulated::half_to_float(x.bits); }
static inline float widen(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
static inline f16 round_f16(float x) { return f16{emulated::float_to_half(x)}; }
static inline bf16 round_bf16(float x) { return bf16{emulated::float_to_brain(x)}; }
// To the nearest with ten bits after the point, ties away from zero.
static inline float round_tf32(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7f800000) == 0x7f800000) return x;
    return __uint_as_float((bits + 0x1000) & ~0x1fffu);
}

static inline void __syncthreads() { emulated::pause(emulated::Wait::Block); }
static inline int __popc(u32 x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
// Whether any thread of the block says so.
static inline int __syncthreads_or(int own) {
    emulated::current->vote = own != 0;
    emulated::pause(emulated::Wait::Block);
    int any = 0;
    for (u32 i = 0; i < blockDim.x; i++) any |= emulated::fibers[i].vote;
    emulated::pause(emulated::Wait::Block);
    return any;
}
static inline void __syncwarp() { emulated::exchange(); }
template <class A> static A __shfl_xor_sync(u32 lanes, A x, int step) {
    if (lanes != 0xffffffffu) emulated::fail("only whole warps are emulated");
    emulated::show().numbers[0] = double(x);
    u32 which = emulated::exchange();
    return A(emulated::of_lane(threadIdx.x % 32 ^ step, which).numbers[0]);
}

// The pair of 16-bit numbers (row, 2 pair + {0, 1}) of the matrix whose row addresses lanes first.. show.
static inline u32 emulated_pair(u32 which, u32 first, u32 row, u32 pair, bool transposed) {
    u16 numbers[2];
    for (u32 i = 0; i < 2; i++) {
        u32 r = transposed ? 2 * pair + i : row, c = transposed ? row : 2 * pair + i;
        numbers[i] = ((const u16 *)emulated::of_lane(first + r, which).address)[c];
    }
    return numbers[0] | u32(numbers[1]) << 16;
}
template <int count> static void emulated_matrices(u32 (&r)[count], const void *row, bool transposed) {
    u32 lane = threadIdx.x % 32;
    if (u64(row) % 16 && lane < 8 * count) emulated::fail("a matrix row is not aligned");
    emulated::show().address = row;
    u32 which = emulated::exchange();
    for (int i = 0; i < count; i++) r[i] = emulated_pair(which, 8 * i, lane / 4, lane % 4, transposed);
    emulated::exchange(); // the rows may be overwritten only after all have read
}
static inline void load_matrices_x4(u32 (&r)[4], const void *row) { emulated_matrices(r, row, false); }
static inline void load_matrices_x4_transposed(u32 (&r)[4], const void *row) { emulated_matrices(r, row, true); }
static inline void load_matrices_x2(u32 (&r)[2], const void *row) { emulated_matrices(r, row, false); }
static inline void load_matrices_x2_transposed(u32 (&r)[2], const void *row) { emulated_matrices(r, row, true); }

template <class T> static void tensor_core(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], T) {
    double *mine = emulated::show().numbers;
    for (int i = 0; i < 8; i++) mine[i] = widen(T{u16(a[i / 2] >> i % 2 * 16)});
    for (int i = 0; i < 4; i++) mine[8 + i] = widen(T{u16(b[i / 2] >> i % 2 * 16)});
    u32 which = emulated::exchange(), lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) {
        u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = c[i];
        for (u32 k = 0; k < 16; k++) {
            // a holds (row, k): lane (row % 8, k % 8 / 2), register row / 8 + k / 8 * 2; b holds (k, column).
            double x = emulated::of_lane(row % 8 * 4 + k % 8 / 2, which).numbers[(row / 8 + k / 8 * 2) * 2 + k % 2];
            double y = emulated::of_lane(column * 4 + k % 8 / 2, which).numbers[8 + k / 8 * 2 + k % 2];
            sum += float(x) * float(y);
        }
        c[i] = sum;
    }
}
static inline void tensor_core_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
    double *mine = emulated::show().numbers;
    // The hardware ignores the lower thirteen bits.
    for (int i = 0; i < 4; i++) mine[i] = __uint_as_float(__float_as_uint(a[i]) & ~0x1fffu);
    for (int i = 0; i < 2; i++) mine[4 + i] = __uint_as_float(__float_as_uint(b[i]) & ~0x1fffu);
    u32 which = emulated::exchange(), lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) {
        u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = c[i];
        for (u32 k = 0; k < 8; k++) {
            double x = emulated::of_lane(row % 8 * 4 + k % 4, which).numbers[row / 8 + k / 4 * 2];
            double y = emulated::of_lane(column * 4 + k % 4, which).numbers[4 + k / 4];
            sum += float(x) * float(y);
        }
        c[i] = sum;
    }
}

static inline void copy_16_bytes(void *to, const void *from, bool present) {
    if (u64(to) % 16 || (present && u64(from) % 16)) emulated::fail("a copy of 16 bytes is not aligned");
    emulated::current->open.push_back({to, {from, present}});
}
static inline void copies_end_group() {
    emulated::current->groups.push_back(std::move(emulated::current->open));
    emulated::current->open.clear();
}
template <int pending> static void copies_arrived() {
    auto &groups = emulated::current->groups;
    while (groups.size() > pending) {
        for (auto &copy : groups.front())
            if (copy.second.second) memcpy(copy.first, copy.second.first, 16);
            else memset(copy.first, 0, 16);
        groups.erase(groups.begin());
    }
}

namespace emulated {

struct Reader {
    template <class T> T take() {
        T value;
        if (fread(&value, sizeof value, 1, stdin) != 1) fail("the request ends early");
        return value;
    }
    std::string text() {
        std::string value(take<u32>(), ' ');
        if (fread(&value[0], 1, value.size(), stdin) != value.size()) fail("the request ends early");
        return value;
    }
};

static std::vector<Memory> buffers;
static Reader reader;

// An argument as the kernel wants it: 'b' a buffer, 'i' i32, 'w' u32, 'u' u64, 'd' f64.
template <class A> struct Argument {
    static A take() {
        char kind = reader.take<char>(), wanted = std::is_same<A, double>::value ? 'd' : std::is_same<A, u64>::value ? 'u' : std::is_same<A, u32>::value ? 'w' : 'i';
        if (kind != wanted) fail("an argument has another type than the kernel's");
        return reader.take<A>();
    }
};
template <class T> struct Argument<T *> {
    static T *take() {
        if (reader.take<char>() != 'b') fail("an argument should be a buffer");
        return (T *)buffers.at(reader.take<u32>()).start;
    }
};

// Runs a whole grid, blocks one after the other.
template <class... A> void launch(void (*kernel)(A...), u32 shared_size, u32 order_seed) {
    std::tuple<A...> arguments{Argument<A>::take()...}; // braces: in order
    Memory memory;
    memory.allocate(shared_size);
    shared = memory.start;
    std::vector<u32> order(blockDim.x);
    for (u32 i = 0; i < order.size(); i++) order[i] = order_seed == 1 ? u32(order.size()) - 1 - i : i;
    if (order_seed > 1)
        for (size_t i = order.size(), state = order_seed; i > 1; i--) {
            state = state * 6364136223846793005ull + 1442695040888963407ull;
            std::swap(order[i - 1], order[(state >> 33) % i]);
        }
    body = [&] { std::apply(kernel, arguments); };
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
                memset(memory.start, 0xff, shared_size);
                run_block(order);
                memory.check();
            }
    munmap((void *)(u64(memory.start) / page() * page()), 1);
}

struct Kernel { const char *name; std::function<void(u32, u32)> run; };

// Reads buffers and launches from the standard input, writes all buffers to the standard output.
static int serve(const std::vector<Kernel> &kernels) {
    u32 count = reader.take<u32>();
    buffers.resize(count);
    for (Memory &buffer : buffers) {
        u64 size = reader.take<u64>();
        buffer.allocate(size);
        if (reader.take<char>() && fread(buffer.start, 1, size, stdin) != size) fail("the request ends early");
    }
    u32 launches = reader.take<u32>();
    for (u32 i = 0; i < launches; i++) {
        std::string name = reader.text();
        gridDim.x = reader.take<u32>(); gridDim.y = reader.take<u32>(); gridDim.z = reader.take<u32>();
        blockDim.x = reader.take<u32>();
        u32 shared_size = reader.take<u32>(), order = reader.take<u32>();
        const Kernel *found = nullptr;
        for (const Kernel &kernel : kernels)
            if (name == kernel.name) found = &kernel;
        if (!found) { fprintf(stderr, "there is no kernel %s\n", name.c_str()); return 4; }
        found->run(shared_size, order);
        for (Memory &buffer : buffers) buffer.check();
    }
    for (Memory &buffer : buffers) fwrite(buffer.start, 1, buffer.size, stdout);
    return 0;
}

} // namespace emulated
#endif
