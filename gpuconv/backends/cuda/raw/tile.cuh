// A block's tile of a matrix product: how its two operands lie in shared memory, and what a warp does with them.
#pragma once
#include "element.cuh"

// How a kernel reads its inputs: sixteen bytes of channels at a time, or one element at a time, neighbouring threads
// reading neighbouring channels (gather) or neighbouring positions (planes).
enum Reads { vector, gather, planes };

// Both operands are staged with the summed axis contiguous: `bytes` of it for each of `rows` rows of a and `columns`
// rows of b, `stages` times over. Warps share the tile as a grid of warp_rows x warp_columns.
template <int rows_, int columns_, int warp_rows_, int warp_columns_, int bytes_, int stages_> struct Tile {
    static constexpr int rows = rows_, columns = columns_, bytes = bytes_, stages = stages_;
    static constexpr int warp_columns = warp_columns_;
    static constexpr int threads = 32 * warp_rows_ * warp_columns_;
    static constexpr int m = rows / warp_rows_ / 16, n = columns / warp_columns_ / 8;
    static constexpr int chunks = bytes / 16;
    static constexpr int stage_bytes = (rows + columns) * bytes;
    static_assert(bytes == 64 || bytes == 128, "the swizzle knows rows of 64 and 128 bytes");
    static_assert(n % 2 == 0 && rows % (16 * warp_rows_) == 0, "a warp loads 16 rows of a and of b at a time");
    static_assert(threads % chunks == 0 && threads >= rows && rows % 32 == 0 && columns % 32 == 0, "whole passes");

    // Where chunk `chunk` of row `row` lies: eight rows of one chunk fall into eight different groups of banks.
    static DEVICE int place(int row, int chunk)
    {
        const int turn = bytes == 128 ? row & 7 : row >> 1 & 3;
        return row * bytes + ((chunk ^ turn) << 4);
    }
};

// How threads share the chunks of an operand of `rows_` rows: each has one chunk of every `step`-th row, from `first`.
// Neighbouring threads have either the chunks of one row, or one chunk of neighbouring rows.
template <class Tile, int rows_, bool along_rows> struct Share {
    static constexpr int count = rows_ * Tile::chunks / Tile::threads;
    static constexpr int width = along_rows ? Tile::threads / Tile::chunks : Tile::chunks;
    static constexpr int step = Tile::threads / Tile::chunks;
    static_assert(count >= 1 && rows_ * Tile::chunks % Tile::threads == 0, "every thread has as many chunks");
    static DEVICE int first(int thread) { return along_rows ? thread % width : thread / width; }
    static DEVICE int chunk(int thread) { return along_rows ? thread / width : thread % width; }
};

template <class Element, class Tile>
DEVICE void multiply_stage(typename Element::Sum (&sums)[Tile::m][Tile::n][4], const unsigned char* stage, int thread)
{
    const int lane = thread & 31, warp = thread >> 5;
    const int first_row = warp / Tile::warp_columns * Tile::m * 16 + (lane & 15);
    const int first_column = warp % Tile::warp_columns * Tile::n * 8 + (lane & 7) + (lane >> 4 << 3);
    const unsigned char* const b_stage = stage + Tile::rows * Tile::bytes;
#pragma unroll
    for (int step = 0; step < Tile::bytes / 32; step++) {
        uint32_t a[Tile::m][4], b[Tile::n / 2][4], columns[Tile::n][2];
        const unsigned char *a_rows[Tile::m], *b_rows[Tile::n / 2];
#pragma unroll
        for (int i = 0; i < Tile::m; i++)
            a_rows[i] = stage + Tile::place(first_row + 16 * i, 2 * step + (lane >> 4));
#pragma unroll
        for (int j = 0; j < Tile::n / 2; j++)
            b_rows[j] = b_stage + Tile::place(first_column + 16 * j, 2 * step + (lane >> 3 & 1));
        load_matrices(a, a_rows);
        load_matrices(b, b_rows);
#pragma unroll
        for (int j = 0; j < Tile::n; j++)
            columns[j][0] = b[j / 2][2 * (j % 2)], columns[j][1] = b[j / 2][2 * (j % 2) + 1];
        Element::multiply(sums, a, columns);
    }
}

// The same for operands staged the other way round: for each step of the sum all rows of a, or columns of b.
template <class Element, int width> struct Across {
    static constexpr int size = sizeof(typename Element::Stored), chunks = width * size / 16;
    static_assert(chunks >= 4 && (size == 2 || chunks >= 8), "the swizzle turns groups of 4 chunks or 8");

    // Threads that read one fragment, of eight steps at one place or of four steps at two, meet in no bank.
    static DEVICE int place(int step, int chunk)
    {
        const int turn = size == 4 ? (step & 3) << 1 : chunks >= 8 ? step & 7 : step >> 1 & 3;
        return step * width * size + ((chunk ^ turn) << 4);
    }

    static DEVICE const unsigned char* element(const unsigned char* operand, int step, int index)
    {
        return operand + place(step, index * size / 16) + index * size % 16;
    }
};

template <class Element, class Tile>
DEVICE void multiply_stage_across(typename Element::Sum (&sums)[Tile::m][Tile::n][4], const unsigned char* stage,
                                  int thread)
{
    constexpr int size = sizeof(typename Element::Stored), steps = 32 / size;
    typedef Across<Element, Tile::rows> A;
    typedef Across<Element, Tile::columns> B;
    const int lane = thread & 31, warp = thread >> 5;
    const int first_row = warp / Tile::warp_columns * Tile::m * 16;
    const int first_column = warp % Tile::warp_columns * Tile::n * 8;
    const unsigned char* const b_stage = stage + Tile::rows * Tile::bytes;
#pragma unroll
    for (int step = 0; step < Tile::bytes / 32; step++) {
        uint32_t a[Tile::m][4], columns[Tile::n][2];
        if constexpr (size == 2) {
            uint32_t b[Tile::n / 2][4];
            const unsigned char *a_rows[Tile::m], *b_rows[Tile::n / 2];
#pragma unroll
            for (int i = 0; i < Tile::m; i++)
                a_rows[i] = A::element(stage, step * steps + (lane & 7) + (lane >> 4 << 3),
                                       first_row + 16 * i + (lane & 8));
#pragma unroll
            for (int j = 0; j < Tile::n / 2; j++)
                b_rows[j] = B::element(b_stage, step * steps + (lane & 15), first_column + 16 * j + (lane >> 4 << 3));
            load_matrices_across(a, a_rows);
            load_matrices_across(b, b_rows);
#pragma unroll
            for (int j = 0; j < Tile::n; j++)
                columns[j][0] = b[j / 2][2 * (j % 2)], columns[j][1] = b[j / 2][2 * (j % 2) + 1];
        } else {
#pragma unroll
            for (int i = 0; i < Tile::m; i++)
#pragma unroll
                for (int r = 0; r < 4; r++)
                    a[i][r] = *(const uint32_t*)A::element(stage, step * steps + (lane & 3) + 4 * (r >> 1),
                                                           first_row + 16 * i + (lane >> 2) + 8 * (r & 1));
#pragma unroll
            for (int j = 0; j < Tile::n; j++)
#pragma unroll
                for (int r = 0; r < 2; r++)
                    columns[j][r] = *(const uint32_t*)B::element(b_stage, step * steps + (lane & 3) + 4 * r,
                                                                 first_column + 8 * j + (lane >> 2));
        }
        Element::multiply(sums, a, columns);
    }
}

// Calls store(row, column, sum) for the pairs of neighbouring sums that this thread has: a row and column of the tile
// and the sums at that column and the next.
template <class Tile, class Sum, class Store>
DEVICE void each_pair(const Sum (&sums)[Tile::m][Tile::n][4], int thread, const Store& store)
{
    const int lane = thread & 31, warp = thread >> 5;
    const int first_row = warp / Tile::warp_columns * Tile::m * 16 + (lane >> 2);
    const int first_column = warp % Tile::warp_columns * Tile::n * 8 + 2 * (lane & 3);
#pragma unroll
    for (int i = 0; i < Tile::m; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int j = 0; j < Tile::n; j++)
                store(first_row + 16 * i + 8 * half, first_column + 8 * j, sums[i][j][2 * half],
                      sums[i][j][2 * half + 1]);
}
