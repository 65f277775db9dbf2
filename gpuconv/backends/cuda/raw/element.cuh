// The kinds of element: what is stored, what sums are kept in, and the instruction that multiplies fragments.
#pragma once
#include "device.cuh"

struct Float16 {
    typedef uint16_t Stored;
    typedef float Sum;
    typedef uint16_t Result;
    static DEVICE float widen(Result value) { return float16_to_float(value); }
    static DEVICE Result narrow(float value) { return float_to_float16(value); }
    template <int m, int n>
    static DEVICE void multiply(float (&c)[m][n][4], const uint32_t (&a)[m][4], const uint32_t (&b)[n][2])
    {
        float16_products(c, a, b);
    }
};

struct BFloat16 {
    typedef uint16_t Stored;
    typedef float Sum;
    typedef uint16_t Result;
    static DEVICE float widen(Result value) { return bfloat16_to_float(value); }
    static DEVICE Result narrow(float value) { return float_to_bfloat16(value); }
    template <int m, int n>
    static DEVICE void multiply(float (&c)[m][n][4], const uint32_t (&a)[m][4], const uint32_t (&b)[n][2])
    {
        bfloat16_products(c, a, b);
    }
};

// A float as the sum of two TF32 numbers. `large` is the nearest one, except that no finite number becomes infinite;
// `finite` is the same, or 0 where it is not finite; `small` is the rest, 0 where there is none.
struct Parts {
    uint32_t large, finite, small;
};

constexpr uint32_t kept_by_tf32 = 0xffffe000u, half_of_dropped = 0x1000u;

DEVICE Parts split(uint32_t bits)
{
    const uint32_t magnitude = bits & 0x7fffffffu;
    Parts parts;
    parts.large = (bits + half_of_dropped) & kept_by_tf32;
    if (magnitude >= 0x7f7ff000u) // Rounding would carry into the exponent of infinity, or into a NaN's sign.
        parts.large = (bits & kept_by_tf32) | (magnitude > 0x7f800000u ? 0x00400000u : 0u);
    const bool finite = magnitude < 0x7f800000u;
    parts.finite = finite ? parts.large : 0u;
    parts.small = finite ? float_to_bits(bits_to_float(bits) - bits_to_float(parts.large)) : 0u;
    return parts;
}

// The same for numbers whose rounding neither meets nor makes an infinity or NaN. A rest is then finite, so that
// `strange`, to which 0 times each rest is added, stays 0; it is a NaN otherwise.
DEVICE void split_plain(uint32_t bits, uint32_t& large, uint32_t& small, float& strange)
{
    large = (bits + half_of_dropped) & kept_by_tf32;
    const float rest = bits_to_float(bits) - bits_to_float(large);
    small = float_to_bits(rest);
    strange += rest * 0.0f;
}

// The same without the rest; the instruction leaves out the bits that TF32 has not got.
DEVICE void round_plain(uint32_t bits, uint32_t& large, float& strange)
{
    large = bits + half_of_dropped;
    strange += (bits_to_float(bits) - bits_to_float(large)) * 0.0f;
}

struct Float32 {
    typedef float Stored;
    typedef float Sum;
    typedef float Result;
    static DEVICE float widen(float value) { return value; }
    static DEVICE float narrow(float value) { return value; }
};

// One TF32 product: 11 significant bits of each factor.
struct TF32 : Float32 {
    template <int m, int n>
    static DEVICE void multiply(float (&c)[m][n][4], const uint32_t (&a)[m][4], const uint32_t (&b)[n][2])
    {
        uint32_t large_a[m][4], large_b[n][2];
        float strange = 0;
#pragma unroll
        for (int i = 0; i < m; i++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                round_plain(a[i][r], large_a[i][r], strange);
#pragma unroll
        for (int j = 0; j < n; j++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                round_plain(b[j][r], large_b[j][r], strange);
        if (any_lane(strange != 0)) {
#pragma unroll
            for (int i = 0; i < m; i++)
#pragma unroll
                for (int r = 0; r < 4; r++)
                    large_a[i][r] = split(large_a[i][r] - half_of_dropped).large;
#pragma unroll
            for (int j = 0; j < n; j++)
#pragma unroll
                for (int r = 0; r < 2; r++)
                    large_b[j][r] = split(large_b[j][r] - half_of_dropped).large;
        }
        tf32_products(c, large_a, large_b);
    }
};

// Three TF32 products, the smallest first: all but the product of the two rests.
struct TF32x3 : Float32 {
    template <int m, int n>
    static DEVICE void multiply(float (&c)[m][n][4], const uint32_t (&a)[m][4], const uint32_t (&b)[n][2])
    {
        uint32_t large_a[m][4], large_b[n][2], small_a[m][4], small_b[n][2];
        float strange = 0;
#pragma unroll
        for (int i = 0; i < m; i++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                split_plain(a[i][r], large_a[i][r], small_a[i][r], strange);
#pragma unroll
        for (int j = 0; j < n; j++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                split_plain(b[j][r], large_b[j][r], small_b[j][r], strange);
        if (any_lane(strange != 0)) {
            multiply_strange(c, a, b);
            return;
        }
        tf32_products(c, small_a, large_b);
        tf32_products(c, large_a, small_b);
        tf32_products(c, large_a, large_b);
    }

    // An infinity meets the other factor's large part alone, since its product with a rest of 0 would be a NaN.
    template <int m, int n>
    static DEVICE void multiply_strange(float (&c)[m][n][4], const uint32_t (&a)[m][4], const uint32_t (&b)[n][2])
    {
        uint32_t large_a[m][4], large_b[n][2], finite_a[m][4], finite_b[n][2], small_a[m][4], small_b[n][2];
#pragma unroll
        for (int i = 0; i < m; i++)
#pragma unroll
            for (int r = 0; r < 4; r++) {
                const Parts parts = split(a[i][r]);
                large_a[i][r] = parts.large, finite_a[i][r] = parts.finite, small_a[i][r] = parts.small;
            }
#pragma unroll
        for (int j = 0; j < n; j++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const Parts parts = split(b[j][r]);
                large_b[j][r] = parts.large, finite_b[j][r] = parts.finite, small_b[j][r] = parts.small;
            }
        tf32_products(c, small_a, finite_b);
        tf32_products(c, finite_a, small_b);
        tf32_products(c, large_a, large_b);
    }
};

struct Int32 {
    typedef int Sum;
    typedef int Result;
    static DEVICE int widen(int value) { return value; }
    static DEVICE int narrow(int value) { return value; }
};

struct Int8 : Int32 {
    typedef int8_t Stored;
    template <int m, int n>
    static DEVICE void multiply(int (&c)[m][n][4], const uint32_t (&a)[m][4], const uint32_t (&b)[n][2])
    {
        int8_products(c, a, b);
    }
};

struct UInt8 : Int32 {
    typedef uint8_t Stored;
    template <int m, int n>
    static DEVICE void multiply(int (&c)[m][n][4], const uint32_t (&a)[m][4], const uint32_t (&b)[n][2])
    {
        uint8_products(c, a, b);
    }
};

DEVICE float add(float a, float b) { return a + b; }
// Integers wrap around.
DEVICE int add(int a, int b) { return (int)((unsigned)a + (unsigned)b); }
