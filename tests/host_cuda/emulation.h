// The machine that gpuconv/backends/cuda/raw/device.cuh asks for, in software: the kernels' own source files, built by
// a C++ compiler, run on the host one block after the other.
//
// What it is strict about: dynamic shared memory has exactly its size and begins as NaN; an asynchronous copy lands
// only when it is waited for; addresses of 16 bytes are multiples of 16; a barrier that a thread misses, or a warp whose
// lanes meet in different instructions, ends the process. Fragments go from and to their places in each lane's
// registers.
#pragma once

#include "fibers.h"

#include <cmath>

#define DEVICE inline
#define __global__
#define __launch_bounds__(...)

namespace emulation {

inline float bits(uint32_t value)
{
    float result;
    std::memcpy(&result, &value, 4);
    return result;
}

inline uint32_t bits(float value)
{
    uint32_t result;
    std::memcpy(&result, &value, 4);
    return result;
}

inline float from_float16(uint16_t value)
{
    const uint32_t sign = (uint32_t)(value & 0x8000) << 16, exponent = value >> 10 & 31, fraction = value & 1023;
    if (exponent == 0)
        return (sign ? -1.0f : 1.0f) * (float)fraction * bits((127u - 24u) << 23);
    return bits(sign | (exponent == 31 ? 255u << 23 : (exponent + 112u) << 23) | fraction << 13);
}

// Rounds to nearest, ties to even.
inline uint16_t to_float16(float value)
{
    const uint32_t all = bits(value), magnitude = all & 0x7fffffff;
    const uint16_t sign = (uint16_t)(all >> 16 & 0x8000);
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000)
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) // Adding a number whose last place is float16's smallest rounds to it.
        return (uint16_t)(sign | (bits(bits(magnitude) + 0.5f) - bits(0.5f)));
    return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

inline uint16_t to_bfloat16(float value)
{
    const uint32_t all = bits(value);
    if ((all & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(all >> 16 | 0x40);
    return (uint16_t)((all + 0x7fff + (all >> 16 & 1)) >> 16);
}

// What one element of a fragment's register holds: size in bytes, and its value.
struct AsFloat16 {
    typedef uint16_t Stored;
    static float value(uint16_t v) { return from_float16(v); }
};
struct AsBFloat16 {
    typedef uint16_t Stored;
    static float value(uint16_t v) { return bits((uint32_t)v << 16); }
};
struct AsTF32 { // The hardware reads the upper 19 bits.
    typedef uint32_t Stored;
    static float value(uint32_t v) { return bits(v & 0xffffe000u); }
};
struct AsInt8 {
    typedef int8_t Stored;
    static int value(int8_t v) { return v; }
};
struct AsUInt8 {
    typedef uint8_t Stored;
    static int value(uint8_t v) { return v; }
};

inline float multiply_add(float c, float a, float b) { return c + a * b; }
inline int multiply_add(int c, int a, int b) { return (int)((unsigned)c + (unsigned)(a * b)); }

// c += a * b for m fragments of 16 rows of a, n of 8 columns of b. Register r of lane l holds four bytes: of a, of row
// l/4 + 8*(r%2) from byte 4*(l%4) + 16*(r/2) on; of b, of column l/4 from byte 4*(l%4) + 16*r on. Sum r of a lane is at
// row l/4 + 8*(r/2), column 2*(l%4) + r%2.
template <class As, class Sum, int m, int n>
void products(int instruction, Sum (&c)[m][n][4], const uint32_t (&a)[m][4], const uint32_t (&b)[n][2])
{
    struct Operands {
        Sum (&c)[m][n][4];
        const uint32_t (&a)[m][4];
        const uint32_t (&b)[n][2];
    };
    typedef decltype(As::value(0)) Value;
    constexpr int size = sizeof(typename As::Stored), depth = 32 / size, each = 4 / size;
    with_warp(instruction, Operands{c, a, b}, [](const Operands* const* lanes) {
        static Value left[16 * m][depth], right[8 * n][depth];
        typename As::Stored held[each];
        for (int lane = 0; lane < 32; lane++) {
            for (int i = 0; i < m; i++)
                for (int r = 0; r < 4; r++) {
                    std::memcpy(held, &lanes[lane]->a[i][r], 4);
                    for (int e = 0; e < each; e++)
                        left[16 * i + lane / 4 + 8 * (r % 2)][each * (lane % 4 + 4 * (r / 2)) + e] = As::value(held[e]);
                }
            for (int j = 0; j < n; j++)
                for (int r = 0; r < 2; r++) {
                    std::memcpy(held, &lanes[lane]->b[j][r], 4);
                    for (int e = 0; e < each; e++)
                        right[8 * j + lane / 4][each * (lane % 4 + 4 * r) + e] = As::value(held[e]);
                }
        }
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < m; i++)
                for (int j = 0; j < n; j++)
                    for (int r = 0; r < 4; r++) {
                        const Value* const row = left[16 * i + lane / 4 + 8 * (r / 2)];
                        const Value* const column = right[8 * j + 2 * (lane % 4) + r % 2];
                        Sum sum = lanes[lane]->c[i][j][r];
                        for (int k = 0; k < depth; k++)
                            sum = multiply_add(sum, row[k], column[k]);
                        lanes[lane]->c[i][j][r] = sum;
                    }
    });
}

inline void check_aligned(const void* address)
{
    if ((uintptr_t)address % 16)
        fail("an address of 16 bytes is not a multiple of 16");
}

} // namespace emulation

#define threadIdx emulation::thread_index
#define blockIdx emulation::block_index
#define blockDim emulation::block_size
#define gridDim emulation::grid_size

DEVICE unsigned char* shared_memory() { return emulation::machine.shared; }
DEVICE void barrier() { emulation::wait_for_block(); }

DEVICE void copy_async(void* target, const void* source, bool take)
{
    emulation::check_aligned(target);
    emulation::check_aligned(source);
    emulation::machine.fibers[emulation::machine.current].open.push_back({target, source, take});
}

DEVICE void copy_async_commit()
{
    emulation::Fiber& self = emulation::machine.fibers[emulation::machine.current];
    self.committed.push_back(std::move(self.open));
    self.open.clear();
}

template <int pending> DEVICE void copy_async_wait()
{
    auto& groups = emulation::machine.fibers[emulation::machine.current].committed;
    while (groups.size() > (std::size_t)pending) {
        for (const emulation::Copy& copy : groups.front())
            if (copy.take)
                std::memcpy(copy.target, copy.source, 16);
            else
                std::memset(copy.target, 0, 16);
        groups.erase(groups.begin());
    }
}

template <int n> DEVICE void load_matrices(uint32_t (&r)[n][4], const unsigned char* const (&rows)[n])
{
    struct Operands {
        uint32_t (&r)[n][4];
        const unsigned char* const (&rows)[n];
    };
    emulation::with_warp(0, Operands{r, rows}, [](const Operands* const* lanes) {
        for (int i = 0; i < n; i++)
            for (int lane = 0; lane < 32; lane++) {
                emulation::check_aligned(lanes[lane]->rows[i]);
                for (int matrix = 0; matrix < 4; matrix++)
                    std::memcpy(&lanes[lane]->r[i][matrix], lanes[8 * matrix + lane / 4]->rows[i] + 4 * (lane % 4), 4);
            }
    });
}

// Each lane gets two steps of the memory's rows, 2*(lane%4) and the next, at column lane/4.
template <int n> DEVICE void load_matrices_across(uint32_t (&r)[n][4], const unsigned char* const (&rows)[n])
{
    struct Operands {
        uint32_t (&r)[n][4];
        const unsigned char* const (&rows)[n];
    };
    emulation::with_warp(6, Operands{r, rows}, [](const Operands* const* lanes) {
        for (int i = 0; i < n; i++)
            for (int lane = 0; lane < 32; lane++) {
                emulation::check_aligned(lanes[lane]->rows[i]);
                for (int matrix = 0; matrix < 4; matrix++) {
                    uint16_t pair[2];
                    for (int e = 0; e < 2; e++)
                        std::memcpy(&pair[e], lanes[8 * matrix + 2 * (lane % 4) + e]->rows[i] + 2 * (lane / 4), 2);
                    std::memcpy(&lanes[lane]->r[i][matrix], pair, 4);
                }
            }
    });
}

#define PRODUCTS(NUMBER, NAME, AS, SUM)                                                                                \
    template <int m, int n>                                                                                            \
    DEVICE void NAME##_products(SUM(&c)[m][n][4], const uint32_t(&a)[m][4], const uint32_t(&b)[n][2])                  \
    {                                                                                                                  \
        emulation::products<emulation::AS>(NUMBER, c, a, b);                                                           \
    }
PRODUCTS(1, float16, AsFloat16, float)
PRODUCTS(2, bfloat16, AsBFloat16, float)
PRODUCTS(3, tf32, AsTF32, float)
PRODUCTS(4, int8, AsInt8, int)
PRODUCTS(5, uint8, AsUInt8, int)
#undef PRODUCTS

DEVICE bool any_lane(bool condition)
{
    struct Operands {
        bool condition;
        bool& any;
    };
    bool any = false;
    emulation::with_warp(7, Operands{condition, any}, [](const Operands* const* lanes) {
        bool found = false;
        for (int lane = 0; lane < 32; lane++)
            found |= lanes[lane]->condition;
        for (int lane = 0; lane < 32; lane++)
            lanes[lane]->any = found;
    });
    return any;
}

DEVICE float bits_to_float(uint32_t value) { return emulation::bits(value); }
DEVICE uint32_t float_to_bits(float value) { return emulation::bits(value); }
DEVICE float float16_to_float(uint16_t value) { return emulation::from_float16(value); }
DEVICE uint16_t float_to_float16(float value) { return emulation::to_float16(value); }
DEVICE uint16_t float_to_bfloat16(float value) { return emulation::to_bfloat16(value); }
DEVICE void load_words(uint32_t (&words)[4], const void* from)
{
    emulation::check_aligned(from);
    std::memcpy(words, from, 16);
}
DEVICE float error_complement(float x) { return std::erfc(x); }
DEVICE float hyperbolic_tangent(float x) { return std::tanh(x); }
DEVICE float exponential(float x) { return std::exp(x); }
