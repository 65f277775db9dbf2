// Filters of planes by windows: each output channel reads one input channel, stride and dilation are 1.
//
// A thread has sixteen bytes of outputs of each of `rows` rows, and slides down the rows of inputs that they read: of
// each it loads the chunks that its window covers, once, and adds what they give to all outputs that they are part of.
// No shared memory and no barrier: what neighbouring threads read again comes from the first-level cache.
//
// Where the window begins within a chunk (`shift`) is a constant of the compilation, since registers cannot be indexed.
#pragma once
#include "activation.cuh"
#include "element.cuh"
#include "problem.cuh"

// `height` is 0 for any height, whose weights are then read again for each row of inputs. `aligned` says whether every
// row of x begins at a multiple of sixteen bytes.
template <class Element, int height, int width, int shift, bool aligned, Activation activation> struct Stencil {
    typedef typename Element::Stored Stored;
    typedef typename Element::Sum Sum;
    typedef typename Element::Result Result;
    static constexpr int size = sizeof(Stored), wide = 16 / size, rows = 32 / wide;
    static constexpr int chunks = (shift + wide - 1 + width - 1) / wide + 1;
    static constexpr int weight_chunks = (width + wide - 1) / wide;
    union Loaded {
        Chunk chunk;
        Stored elements[wide];
    };

    static DEVICE Sum widen(Stored value)
    {
        if constexpr (size == 1)
            return value;
        else
            return Element::widen(value);
    }

    template <int n> static DEVICE void spread(Sum (&values)[n], int first, const Chunk& chunk)
    {
        Loaded loaded;
        loaded.chunk = chunk;
#pragma unroll
        for (int e = 0; e < wide; e++)
            values[first + e] = widen(loaded.elements[e]);
    }

    // A chunk that may have elements outside the row, one element after the other: each pushes the others down.
    static DEVICE Chunk gather(const Problem& p, const Stored* row, bool inside, int begin)
    {
        Chunk chunk = {};
#pragma unroll 1
        for (int e = 0; e < wide; e++) {
            const int at = source_index((int)p.mode, begin + e, (int)p.length[2]);
            Stored element = Stored(0);
            if (inside && at >= 0)
                element = row[at];
            const uint32_t last = chunk.words[3];
            if constexpr (size == 4) {
                chunk.words[0] = chunk.words[1], chunk.words[1] = chunk.words[2], chunk.words[2] = last;
                chunk.words[3] = float_to_bits(element);
            } else {
                constexpr int bits = 8 * size;
#pragma unroll
                for (int i = 0; i < 3; i++)
                    chunk.words[i] = chunk.words[i] >> bits | chunk.words[i + 1] << (32 - bits);
                const uint32_t top = (uint32_t)element & ((1u << bits) - 1);
                chunk.words[3] = last >> bits | top << (32 - bits);
            }
        }
        return chunk;
    }

    // The inputs of one row, from `begin` on; `inner` where all chunks of it lie inside.
    template <bool inner>
    static DEVICE void load(const Problem& p, Sum (&values)[chunks * wide], const Stored* plane, int row, int begin)
    {
        if constexpr (inner) {
            const Stored* const from = plane + row * p.x_axis[1] + begin;
#pragma unroll
            for (int i = 0; i < chunks; i++) {
                const int used_from = i ? i * wide : shift;
                const int used_to = i + 1 < chunks ? (i + 1) * wide : shift + wide + width - 1;
                if (aligned && used_to - used_from > 1) {
                    Chunk chunk;
                    load_words(chunk.words, from + i * wide);
                    spread(values, i * wide, chunk);
                } else {
#pragma unroll
                    for (int e = 0; e < wide; e++)
                        values[i * wide + e] = widen(from[i * wide + e]);
                }
            }
        } else {
            const int at = source_index((int)p.mode, row, (int)p.length[1]);
            const Stored* const from = plane + (at < 0 ? 0 : at) * p.x_axis[1];
#pragma unroll
            for (int i = 0; i < chunks; i++)
                spread(values, i * wide, gather(p, from, at >= 0, begin + i * wide));
        }
    }

    // Adds what a row of inputs gives to a row of outputs.
    template <int n>
    static DEVICE void add_row(Sum (&sums)[wide], const Sum (&values)[chunks * wide], const Sum (&weights)[n])
    {
#pragma unroll
        for (int t = 0; t < width; t++)
#pragma unroll
            for (int c = 0; c < wide; c++)
                sums[c] += weights[t] * values[shift + c + t];
    }

    static DEVICE void load_weights(Sum (&weights)[weight_chunks * wide], const Stored* w, int row)
    {
#pragma unroll
        for (int i = 0; i < weight_chunks; i++)
            spread(weights, i * wide, *(const Chunk*)(w + (row * weight_chunks + i) * wide));
    }

    // Adds what all rows of inputs give, those from `top` on.
    template <bool inner>
    static DEVICE void sweep(const Problem& p, Sum (&sums)[rows][wide], const Stored* plane, const Stored* w, int top,
                             int begin)
    {
        Sum values[chunks * wide];
        if constexpr (inner && height > 0) {
            Sum weights[height][weight_chunks * wide];
#pragma unroll
            for (int t = 0; t < height; t++)
                load_weights(weights[t], w, t);
#pragma unroll
            for (int r = 0; r < rows + height - 1; r++) {
                load<inner>(p, values, plane, top + r, begin);
#pragma unroll
                for (int i = 0; i < rows; i++)
                    if (r - i >= 0 && r - i < height)
                        add_row(sums[i], values, weights[r - i]);
            }
        } else {
            const int taps = (int)p.taps[1];
#pragma unroll 1
            for (int r = 0; r < rows + taps - 1; r++) {
                load<inner>(p, values, plane, top + r, begin);
#pragma unroll
                for (int i = 0; i < rows; i++)
                    if ((unsigned)(r - i) < (unsigned)taps) {
                        Sum weights[weight_chunks * wide];
                        load_weights(weights, w, r - i);
                        add_row(sums[i], values, weights);
                    }
            }
        }
    }

    static DEVICE void run(const Problem& p)
    {
        const unsigned across = (unsigned)((p.count[2] + wide - 1) / wide);
        const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
        const int column = (int)(item % across) * wide;
        const int64 first_row = (int64)(item / across) * rows;
        const int taps = (int)p.taps[1], begin = column + (int)p.first[2] - shift;
        const int64 top = first_row + p.first[1];
        const bool inner = begin >= 0 && begin + chunks * wide <= (int)p.length[2] && top >= 0 &&
                           top + rows + taps - 1 <= p.length[1];
        // A warp goes one way: lanes apart would wait for one another.
        const bool border = any_lane(!inner);
        if (first_row >= p.count[1])
            return;
        const int64 plane = p.first_group + blockIdx.y, batch = plane / (p.groups * p.outputs);
        const int64 channel = plane - batch * p.groups * p.outputs;
        const Stored* const x =
            (const Stored*)p.x + p.x_start + batch * p.x_batch + channel / p.outputs * p.x_channel;
        const Stored* const w = (const Stored*)p.w + channel * taps * (weight_chunks * wide);
        Sum sums[rows][wide] = {};
        if (border)
            sweep<false>(p, sums, x, w, (int)top, begin);
        else
            sweep<true>(p, sums, x, w, (int)top, begin);

        Result* const y = (Result*)p.y + p.y_start + batch * p.y_batch + channel * p.y_channel;
#pragma unroll
        for (int i = 0; i < rows; i++)
            if (first_row + i < p.count[1])
                store(p, y + (first_row + i) * p.y_axis[1] + column, channel, sums[i], (int)p.count[2] - column);
    }

    static DEVICE void store(const Problem& p, Result* to, int64 channel, const Sum (&sums)[wide], int left)
    {
        constexpr int each = 16 / sizeof(Result);
        Sum bias = 0;
        if (p.bias)
            bias = Element::widen(((const Result*)p.bias)[channel]);
#pragma unroll
        for (int first = 0; first < wide; first += each) {
            union {
                Chunk chunk;
                Result elements[each];
            } stored;
#pragma unroll
            for (int e = 0; e < each; e++) {
                const Sum sum = p.bias ? add(sums[first + e], bias) : sums[first + e];
                stored.elements[e] = Element::narrow(activated<activation>(sum));
            }
            if (p.paired && first + each <= left) {
                *(Chunk*)(to + first) = stored.chunk;
                continue;
            }
#pragma unroll
            for (int e = 0; e < each; e++)
                if (first + e < left)
                    to[first + e] = stored.elements[e];
        }
    }
};
