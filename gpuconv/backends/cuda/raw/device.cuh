// What the kernels need of the machine, one function an instruction. Built for the host, tests/host_cuda/emulation.h
// gives the same names with software bodies; nothing else in this folder knows of it.
#pragma once

#ifdef GPUCONV_EMULATION
#include "emulation.h"
#else

#define DEVICE __device__ __forceinline__

typedef unsigned char uint8_t;
typedef signed char int8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;

// Dynamic shared memory, the only kind that the kernels use.
DEVICE unsigned char* shared_memory()
{
    extern __shared__ __align__(128) unsigned char memory[];
    return memory;
}

DEVICE void barrier() { __syncthreads(); }

DEVICE unsigned shared_address(const void* pointer) { return (unsigned)__cvta_generic_to_shared(pointer); }

// Starts to copy 16 bytes to shared memory, or to fill them with zeros. Both addresses are multiples of 16.
DEVICE void copy_async(void* target, const void* source, bool take)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)), "l"(source),
                 "r"(take ? 16 : 0)
                 : "memory");
}

DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;"); }

// Waits until at most `pending` of this thread's committed groups are still on their way.
template <int pending> DEVICE void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Loads n times four 8x8 matrices of 16-bit elements; the lanes 8i ... 8i+7 name the rows of matrix i.
template <int n> DEVICE void load_matrices(uint32_t (&r)[n][4], const unsigned char* const (&rows)[n])
{
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[i][0]), "=r"(r[i][1]), "=r"(r[i][2]), "=r"(r[i][3])
                     : "r"(shared_address(rows[i])));
}

// The same, each matrix transposed: for operands that lie with the summed axis across.
template <int n> DEVICE void load_matrices_across(uint32_t (&r)[n][4], const unsigned char* const (&rows)[n])
{
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[i][0]), "=r"(r[i][1]), "=r"(r[i][2]), "=r"(r[i][3])
                     : "r"(shared_address(rows[i])));
}

#define FLOAT_PRODUCT(NAME, INSTRUCTION)                                                                               \
    DEVICE void NAME(float(&c)[4], const uint32_t(&a)[4], const uint32_t(&b)[2])                                       \
    {                                                                                                                  \
        asm volatile("mma.sync.aligned." INSTRUCTION " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "                \
                     "{%0, %1, %2, %3};"                                                                               \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                  \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                              \
    }
#define INTEGER_PRODUCT(NAME, INSTRUCTION)                                                                             \
    DEVICE void NAME(int(&c)[4], const uint32_t(&a)[4], const uint32_t(&b)[2])                                         \
    {                                                                                                                  \
        asm volatile("mma.sync.aligned." INSTRUCTION " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "                \
                     "{%0, %1, %2, %3};"                                                                               \
                     : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                                                  \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                              \
    }
FLOAT_PRODUCT(product_float16, "m16n8k16.row.col.f32.f16.f16.f32")
FLOAT_PRODUCT(product_bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
FLOAT_PRODUCT(product_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
INTEGER_PRODUCT(product_int8, "m16n8k32.row.col.s32.s8.s8.s32")
INTEGER_PRODUCT(product_uint8, "m16n8k32.row.col.s32.u8.u8.s32")
#undef FLOAT_PRODUCT
#undef INTEGER_PRODUCT

// c += a * b for every pair of fragments: 16 rows of a, 8 columns of b, 32 bytes of each.
#define PRODUCTS(NAME, SUM)                                                                                            \
    template <int m, int n>                                                                                            \
    DEVICE void NAME##_products(SUM(&c)[m][n][4], const uint32_t(&a)[m][4], const uint32_t(&b)[n][2])                  \
    {                                                                                                                  \
        _Pragma("unroll") for (int i = 0; i < m; i++) _Pragma("unroll") for (int j = 0; j < n; j++)                    \
            product_##NAME(c[i][j], a[i], b[j]);                                                                       \
    }
PRODUCTS(float16, float)
PRODUCTS(bfloat16, float)
PRODUCTS(tf32, float)
PRODUCTS(int8, int)
PRODUCTS(uint8, int)
#undef PRODUCTS

// Whether a condition holds in any lane of the warp.
DEVICE bool any_lane(bool condition) { return __any_sync(0xffffffffu, condition); }

DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
DEVICE uint32_t float_to_bits(float value) { return __float_as_uint(value); }

DEVICE float float16_to_float(uint16_t value)
{
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value));
    return result;
}

DEVICE uint16_t float_to_float16(float value)
{
    uint16_t result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
}

DEVICE uint16_t float_to_bfloat16(float value)
{
    uint16_t result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
}

// One load of sixteen bytes, which a compiler that wants each element by itself may take apart.
DEVICE void load_words(uint32_t (&words)[4], const void* from)
{
    asm("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
        : "l"(from));
}

DEVICE float error_complement(float x) { return erfcf(x); }
DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
DEVICE float exponential(float x) { return expf(x); }

#endif

DEVICE float bfloat16_to_float(uint16_t value) { return bits_to_float((uint32_t)value << 16); }

typedef long long int64;

// Sixteen bytes: what a thread moves at a time.
struct alignas(16) Chunk {
    uint32_t words[4];
};

// The element of 0 ... n-1 that stands at position i, or -1 for a zero: gpuconv.boundary.source_index, without its
// divisions, since a border is seldom wider than the array.
DEVICE int source_index(int mode, int i, int n)
{
    if ((unsigned)i < (unsigned)n)
        return i;
    if (mode == 0)
        return -1;
    if (mode == 1)
        return i < 0 ? 0 : n - 1;
    if (n == 1)
        return 0;
#pragma unroll 1
    do {
        if (mode == 4)
            i += i < 0 ? n : -n;
        else
            i = i < 0 ? -i - (mode == 2) : 2 * (n - 1) + (mode == 2) - i;
    } while ((unsigned)i >= (unsigned)n);
    return i;
}
