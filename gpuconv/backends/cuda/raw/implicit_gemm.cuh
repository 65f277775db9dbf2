// Convolution as a matrix product whose left operand is never written down: row = an output position, column = an
// output channel of the group, summed over the taps and, for each tap, the input channels.
//
// One kernel serves the forward convolution and each phase of a transposed one or an input gradient
// (ConvProblem.phases): on axis i, output start + step*q reads input advance*q + first + delta*t of tap t.
#pragma once
#include "activation.cuh"
#include "problem.cuh"
#include "tile.cuh"

// One thread's chunks of the left operand, tile after tile. The chunk's place on the summed axis is kept as a tap and a
// channel; where the tap changes, the rows' addresses are worked out anew.
template <class Element, class Tile, bool gather> struct SourceLoader {
    typedef typename Element::Stored Stored;
    typedef Share<Tile, Tile::rows, gather> Chunks;
    static constexpr int wide = 16 / sizeof(Stored), depth = Tile::bytes / sizeof(Stored);

    const Problem& p;
    const Position* positions; // Of this thread's first row.
    const Stored* from[Chunks::count];
    Chunk held[gather ? Chunks::count : 1];
    unsigned inside;
    int tap[3], channel, place[Chunks::count];
    int64 group_start;

    DEVICE SourceLoader(const Problem& problem, const Position* table, int thread, int64 group, int64 first_tile)
        : p(problem), positions(table + Chunks::first(thread)), inside(0), group_start(group * p.channels * p.x_channel)
    {
        const int64 k = first_tile * depth + Chunks::chunk(thread) * wide, flat = k / p.padded;
        channel = (int)(k - flat * p.padded);
        tap[2] = (int)(flat % p.taps[2]);
        tap[1] = (int)(flat / p.taps[2] % p.taps[1]);
        tap[0] = (int)(flat / (p.taps[2] * p.taps[1]));
#pragma unroll
        for (int i = 0; i < Chunks::count; i++)
            place[i] = Tile::place(Chunks::first(thread) + i * Chunks::step, Chunks::chunk(thread));
        find();
    }

    DEVICE void find()
    {
        if (p.mode == 0)
            find_inside<false>();
        else
            find_inside<true>();
    }

    template <bool border> DEVICE void find_inside()
    {
        const int away[3] = {tap[0] * (int)p.delta[0], tap[1] * (int)p.delta[1], tap[2] * (int)p.delta[2]};
        int64 offset = group_start + channel * p.x_channel;
#pragma unroll
        for (int axis = 0; axis < 3; axis++)
            offset += away[axis] * p.x_axis[axis];
        const bool exists = tap[0] < (int)p.taps[0];
        inside = 0;
#pragma unroll
        for (int i = 0; i < Chunks::count; i++) {
            const Position& row = positions[i * Chunks::step];
            int64 shift;
            const bool read = within<border>(p, row, away, shift) && exists;
            from[i] = (const Stored*)p.x + (read ? row.x + offset + shift : 0);
            inside |= (unsigned)read << i;
        }
    }

    DEVICE void advance()
    {
        channel += depth;
        if (channel < (int)p.padded) {
#pragma unroll
            for (int i = 0; i < Chunks::count; i++)
                if (inside >> i & 1)
                    from[i] += depth * p.x_channel;
            return;
        }
        do {
            channel -= (int)p.padded;
            if (++tap[2] == (int)p.taps[2]) {
                tap[2] = 0;
                if (++tap[1] == (int)p.taps[1])
                    tap[1] = 0, ++tap[0];
            }
        } while (channel >= (int)p.padded);
        find();
    }

    // Starts the next tile's way to shared memory. A gathered one stays in registers until `finish`, so that its
    // loads have the time of a tile's products.
    DEVICE void start(unsigned char* stage)
    {
#pragma unroll
        for (int i = 0; i < Chunks::count; i++) {
            if constexpr (gather) {
                union {
                    Chunk chunk;
                    Stored elements[wide];
                } loaded;
                const Stored* at = from[i];
#pragma unroll
                for (int e = 0; e < wide; e++) {
                    const bool read = (inside >> i & 1) && channel + e < (int)p.channels;
                    loaded.elements[e] = read ? *at : Stored(0);
                    at += p.x_channel;
                }
                held[i] = loaded.chunk;
            } else {
                copy_async(stage + place[i], from[i], inside >> i & 1);
            }
        }
        advance();
    }

    DEVICE void finish(unsigned char* stage) const
    {
        if constexpr (gather) {
#pragma unroll
            for (int i = 0; i < Chunks::count; i++)
                *(Chunk*)(stage + place[i]) = held[i];
        }
    }
};

// One thread's chunks of the weights: (group, output, tap, channel), the channels rounded up to whole chunks.
template <class Element, class Tile> struct WeightLoader {
    typedef typename Element::Stored Stored;
    typedef Share<Tile, Tile::columns, false> Chunks;
    static constexpr int wide = 16 / sizeof(Stored), depth = Tile::bytes / sizeof(Stored);

    const Stored* from;
    int64 k, length;
    int place[Chunks::count];
    unsigned inside;

    DEVICE WeightLoader(const Problem& p, int thread, int64 group, int64 first_column, int64 first_tile) : inside(0)
    {
        length = p.taps[0] * p.taps[1] * p.taps[2] * p.padded;
        k = first_tile * depth + Chunks::chunk(thread) * wide;
        const int64 column = first_column + Chunks::first(thread);
        from = (const Stored*)p.w + (group * p.outputs + column) * length + k;
#pragma unroll
        for (int i = 0; i < Chunks::count; i++) {
            inside |= (unsigned)(column + i * Chunks::step < p.outputs) << i;
            place[i] = Tile::rows * Tile::bytes +
                       Tile::place(Chunks::first(thread) + i * Chunks::step, Chunks::chunk(thread));
        }
    }

    DEVICE void start(unsigned char* stage, const unsigned char* anywhere)
    {
#pragma unroll
        for (int i = 0; i < Chunks::count; i++) {
            const bool read = (inside >> i & 1) && k < length;
            copy_async(stage + place[i], read ? (const void*)(from + i * Chunks::step * length) : anywhere, read);
        }
        k += depth, from += depth;
    }
};

template <class Element, Activation activation>
DEVICE void store_one(const Problem& p, int64 place, int64 channel, typename Element::Sum sum)
{
    typedef typename Element::Result Result;
    if (p.bias)
        sum = add(sum, Element::widen(((const Result*)p.bias)[channel]));
    ((Result*)p.y)[place + channel * p.y_channel] = Element::narrow(activated<activation>(sum));
}

template <class Element, Activation activation>
DEVICE void store_pair(const Problem& p, int64 place, int64 channel, typename Element::Sum one,
                       typename Element::Sum other)
{
    typedef typename Element::Result Result;
    struct alignas(2 * sizeof(Result)) Pair {
        Result one, other;
    };
    if (p.bias) {
        one = add(one, Element::widen(((const Result*)p.bias)[channel]));
        other = add(other, Element::widen(((const Result*)p.bias)[channel + 1]));
    }
    *(Pair*)((Result*)p.y + place + channel) = Pair{Element::narrow(activated<activation>(one)), Element::narrow(activated<activation>(other))};
}

template <class Element, bool gather, class Tile, Activation activation> DEVICE void implicit_gemm(const Problem& p)
{
    typedef typename Element::Sum Sum;
    constexpr int depth = Tile::bytes / (int)sizeof(typename Element::Stored);
    unsigned char* const memory = shared_memory();
    Position* const positions = (Position*)(memory + Tile::stages * Tile::stage_bytes);
    const int thread = threadIdx.x;
    const int64 group = p.first_group + blockIdx.y;
    const int64 column_tiles = (p.outputs + Tile::columns - 1) / Tile::columns;
    const int64 first_row = blockIdx.x / column_tiles * Tile::rows;
    const int64 first_column = blockIdx.x % column_tiles * Tile::columns;
    const int64 all_tiles = (p.taps[0] * p.taps[1] * p.taps[2] * p.padded + depth - 1) / depth;
    const int64 first_tile = all_tiles * blockIdx.z / p.splits;
    const int tiles = (int)(all_tiles * (blockIdx.z + 1) / p.splits - first_tile);

    for (int row = thread; row < Tile::rows; row += Tile::threads)
        positions[row] = position_of(p, first_row + row);
    barrier();

    SourceLoader<Element, Tile, gather> a(p, positions, thread, group, first_tile);
    WeightLoader<Element, Tile> b(p, thread, group, first_column, first_tile);
    Sum sums[Tile::m][Tile::n][4] = {};
    for (int i = 0; i < Tile::stages - 1; i++) {
        if (i < tiles) {
            unsigned char* const stage = memory + i * Tile::stage_bytes;
            a.start(stage);
            b.start(stage, p.w);
            a.finish(stage);
        }
        copy_async_commit();
    }
    int now = 0, ahead = Tile::stages - 1;
#pragma unroll 1
    for (int i = 0; i < tiles; i++) {
        copy_async_wait<Tile::stages - 2>();
        // Tile i is there for all, and the stage of tile i-1, which is filled next, is read by none.
        barrier();
        unsigned char* const stage = memory + ahead * Tile::stage_bytes;
        const bool more = i + Tile::stages - 1 < tiles;
        if (more) {
            a.start(stage);
            b.start(stage, p.w);
        }
        copy_async_commit();
        multiply_stage<Element, Tile>(sums, memory + now * Tile::stage_bytes, thread);
        if (more)
            a.finish(stage);
        now = now + 1 == Tile::stages ? 0 : now + 1;
        ahead = ahead + 1 == Tile::stages ? 0 : ahead + 1;
    }

    each_pair<Tile>(sums, thread, [&](int row, int column, Sum one, Sum other) {
        const int64 place = positions[row].y, output = first_column + column;
        if (place < 0 || output >= p.outputs)
            return;
        const bool two = output + 1 < p.outputs;
        if (p.splits > 1) {
            Sum* const partial = (Sum*)p.partial +
                                 ((blockIdx.z * p.groups + group) * p.rows + first_row + row) * p.outputs + output;
            partial[0] = one;
            if (two)
                partial[1] = other;
            return;
        }
        const int64 channel = group * p.outputs + output;
        if (two && p.paired)
            return store_pair<Element, activation>(p, place, channel, one, other);
        store_one<Element, activation>(p, place, channel, one);
        if (two)
            store_one<Element, activation>(p, place, channel + 1, other);
    });
}

// The second pass of a split sum: adds the parts in their order, so that every run gives the same bits.
template <class Element, Activation activation> DEVICE void add_splits(const Problem& p)
{
    typedef typename Element::Sum Sum;
    const int64 all = p.groups * p.rows * p.outputs, stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += stride) {
        const int64 output = i % p.outputs, row = i / p.outputs % p.rows, group = i / (p.outputs * p.rows);
        Sum sum = ((const Sum*)p.partial)[i];
        for (int64 part = 1; part < p.splits; part++)
            sum = add(sum, ((const Sum*)p.partial)[part * all + i]);
        store_one<Element, activation>(p, position_of(p, row).y, group * p.outputs + output, sum);
    }
}
