// The gradient by the weights as a matrix product: row = an output channel of the group, column = a tap and an input
// channel, summed over all output positions.
//
// It reads x and y, which is the gradient by the output, and writes w. The long sum is split among blocks; a second
// pass adds the parts in their order.
#pragma once
#include "problem.cuh"
#include "tile.cuh"

// A column: a tap's distances from tap 0, and where it and the channel lie from channel 0 at tap 0.
struct Column {
    int away[3];
    int64 offset;
    bool exists;

    DEVICE Column() {}
    DEVICE Column(const Problem& p, int64 group, int64 column)
    {
        exists = column < p.taps[0] * p.taps[1] * p.taps[2] * p.channels;
        const int64 tap = exists ? column / p.channels : 0;
        offset = (group * p.channels + (exists ? column - tap * p.channels : 0)) * p.x_channel;
        away[2] = (int)(tap % p.taps[2] * p.delta[2]);
        away[1] = (int)(tap / p.taps[2] % p.taps[1] * p.delta[1]);
        away[0] = (int)(tap / (p.taps[2] * p.taps[1]) * p.delta[0]);
#pragma unroll
        for (int axis = 0; axis < 3; axis++)
            offset += away[axis] * p.x_axis[axis];
    }

    // Where the column's element for a position lies, or -1 where it is a border's zero.
    template <bool border> DEVICE int64 find(const Problem& p, const Position& position) const
    {
        int64 shift;
        const bool inside = within<border>(p, position, away, shift) && exists;
        return inside ? position.x + offset + shift : -1;
    }
};

// One thread's chunks of both operands where channels lie together: each is of one position, and of the same channels
// of y, or of the same tap and channels of x, in every tile.
template <class Element, class Tile> struct VectorSteps {
    typedef typename Element::Stored Stored;
    typedef Across<Element, Tile::rows> A;
    typedef Across<Element, Tile::columns> B;
    static constexpr int wide = 16 / sizeof(Stored), depth = Tile::bytes / sizeof(Stored);
    static constexpr int a_step = Tile::threads / A::chunks, b_step = Tile::threads / B::chunks;
    static_assert(Tile::threads % A::chunks == 0 && Tile::threads % B::chunks == 0, "threads share rows evenly");
    static_assert(depth % a_step == 0 && depth % b_step == 0, "every thread has as many chunks");

    const Problem& p;
    const int thread;
    int64 channel; // Of y, or -1.
    Column column;

    DEVICE VectorSteps(const Problem& problem, int thread_, int64 group, int64 first_row, int64 first_column)
        : p(problem), thread(thread_), column(problem, group, first_column + thread_ % B::chunks * wide)
    {
        const int64 row = first_row + thread % A::chunks * wide;
        channel = row < p.outputs ? group * p.outputs + row : -1;
    }

    DEVICE void start(unsigned char* stage, const Position* table)
    {
        if (p.mode == 0)
            start_inside<false>(stage, table);
        else
            start_inside<true>(stage, table);
    }

    template <bool border> DEVICE void start_inside(unsigned char* stage, const Position* table)
    {
#pragma unroll
        for (int i = 0; i < depth / a_step; i++) {
            const int step = thread / A::chunks + i * a_step;
            const int64 at = table[step].y;
            const bool read = at >= 0 && channel >= 0;
            copy_async(stage + A::place(step, thread % A::chunks), (const Stored*)p.y + (read ? at + channel : 0),
                       read);
        }
#pragma unroll
        for (int i = 0; i < depth / b_step; i++) {
            const int step = thread / B::chunks + i * b_step;
            const int64 at = column.template find<border>(p, table[step]);
            copy_async(stage + Tile::rows * Tile::bytes + B::place(step, thread % B::chunks),
                       (const Stored*)p.x + (at < 0 ? 0 : at), at >= 0);
        }
    }

    DEVICE void finish(unsigned char*) const {}
    static DEVICE void multiply(typename Element::Sum (&sums)[Tile::m][Tile::n][4], const unsigned char* stage,
                                int thread)
    {
        multiply_stage_across<Element, Tile>(sums, stage, thread);
    }
};

// One thread's chunks of both operands element by element. The order of the positions in a chunk is free, as long as
// both operands have the same: neighbouring chunks hold neighbouring positions, which in planes lie together.
template <class Element, class Tile, bool along_rows> struct GatherSteps {
    typedef typename Element::Stored Stored;
    typedef Share<Tile, Tile::rows, along_rows> A;
    typedef Share<Tile, Tile::columns, along_rows> B;
    static constexpr int wide = 16 / sizeof(Stored);
    union Loaded {
        Chunk chunk;
        Stored elements[wide];
    };

    const Problem& p;
    const int thread;
    int64 channel[A::count]; // Where a row's channel of y lies, or -1.
    Column column[B::count];
    Chunk a_held[A::count], b_held[B::count];

    DEVICE GatherSteps(const Problem& problem, int thread_, int64 group, int64 first_row, int64 first_column)
        : p(problem), thread(thread_)
    {
#pragma unroll
        for (int i = 0; i < A::count; i++) {
            const int64 row = first_row + A::first(thread) + i * A::step;
            channel[i] = row < p.outputs ? (group * p.outputs + row) * p.y_channel : -1;
        }
#pragma unroll
        for (int i = 0; i < B::count; i++)
            column[i] = Column(p, group, first_column + B::first(thread) + i * B::step);
    }

    DEVICE void start(unsigned char*, const Position* table)
    {
        if (p.mode == 0)
            load<false>(table);
        else
            load<true>(table);
    }

    template <bool border> DEVICE void load(const Position* table)
    {
#pragma unroll
        for (int i = 0; i < A::count; i++) {
            Loaded loaded;
#pragma unroll
            for (int e = 0; e < wide; e++) {
                const int64 at = table[e * Tile::chunks + A::chunk(thread)].y;
                const bool read = at >= 0 && channel[i] >= 0;
                loaded.elements[e] = read ? ((const Stored*)p.y)[at + channel[i]] : Stored(0);
            }
            a_held[i] = loaded.chunk;
        }
#pragma unroll
        for (int i = 0; i < B::count; i++) {
            Loaded loaded;
#pragma unroll
            for (int e = 0; e < wide; e++) {
                const int64 at = column[i].template find<border>(p, table[e * Tile::chunks + B::chunk(thread)]);
                loaded.elements[e] = at >= 0 ? ((const Stored*)p.x)[at] : Stored(0);
            }
            b_held[i] = loaded.chunk;
        }
    }

    DEVICE void finish(unsigned char* stage) const
    {
#pragma unroll
        for (int i = 0; i < A::count; i++)
            *(Chunk*)(stage + Tile::place(A::first(thread) + i * A::step, A::chunk(thread))) = a_held[i];
#pragma unroll
        for (int i = 0; i < B::count; i++)
            *(Chunk*)(stage + Tile::rows * Tile::bytes +
                      Tile::place(B::first(thread) + i * B::step, B::chunk(thread))) = b_held[i];
    }

    static DEVICE void multiply(typename Element::Sum (&sums)[Tile::m][Tile::n][4], const unsigned char* stage,
                                int thread)
    {
        multiply_stage<Element, Tile>(sums, stage, thread);
    }
};

template <class Element, class Tile, Reads reads> struct StepsOf {
    typedef GatherSteps<Element, Tile, reads == gather> Type;
};
template <class Element, class Tile> struct StepsOf<Element, Tile, vector> {
    typedef VectorSteps<Element, Tile> Type;
};

template <class Element, Reads reads, class Tile> DEVICE void weight_gradient(const Problem& p)
{
    typedef typename Element::Sum Sum;
    typedef typename StepsOf<Element, Tile, reads>::Type Steps;
    constexpr int depth = Tile::bytes / (int)sizeof(typename Element::Stored);
    static_assert(Tile::threads >= depth, "a thread works out each position of a tile");
    unsigned char* const memory = shared_memory();
    // Positions of two tiles: those of the next are worked out while this one's are read.
    Position* const table = (Position*)(memory + Tile::stages * Tile::stage_bytes);
    const int thread = threadIdx.x;
    const int64 group = p.first_group + blockIdx.y;
    const int64 taps = p.taps[0] * p.taps[1] * p.taps[2], columns = taps * p.channels;
    const int64 column_tiles = (columns + Tile::columns - 1) / Tile::columns;
    const int64 first_row = blockIdx.x / column_tiles * Tile::rows;
    const int64 first_column = blockIdx.x % column_tiles * Tile::columns;
    const int64 all_tiles = (p.rows + depth - 1) / depth;
    const int64 first_tile = all_tiles * blockIdx.z / p.splits;
    const int tiles = (int)(all_tiles * (blockIdx.z + 1) / p.splits - first_tile);

    Steps steps(p, thread, group, first_row, first_column);
    Sum sums[Tile::m][Tile::n][4] = {};
    const auto place = [&](int tile) {
        if (thread < depth)
            table[tile % 2 * depth + thread] = position_of(p, (first_tile + tile) * depth + thread);
    };
    for (int i = 0; i < Tile::stages - 1; i++) {
        place(i);
        barrier();
        if (i < tiles) {
            unsigned char* const stage = memory + i * Tile::stage_bytes;
            steps.start(stage, table + i % 2 * depth);
            steps.finish(stage);
        }
        copy_async_commit();
    }
    place(Tile::stages - 1);
    int now = 0, ahead = Tile::stages - 1;
#pragma unroll 1
    for (int i = 0; i < tiles; i++) {
        copy_async_wait<Tile::stages - 2>();
        // Tile i and the next positions are there for all; what tile i-1 and the last positions took is free.
        barrier();
        unsigned char* const stage = memory + ahead * Tile::stage_bytes;
        const int next = i + Tile::stages - 1;
        if (next < tiles)
            steps.start(stage, table + next % 2 * depth);
        copy_async_commit();
        place(next + 1);
        Steps::multiply(sums, memory + now * Tile::stage_bytes, thread);
        if (next < tiles)
            steps.finish(stage);
        now = now + 1 == Tile::stages ? 0 : now + 1;
        ahead = ahead + 1 == Tile::stages ? 0 : ahead + 1;
    }

    const auto store = [&](int64 row, int64 column, Sum sum) {
        if (row >= p.outputs || column >= columns)
            return;
        if (p.splits > 1) {
            ((Sum*)p.partial)[((blockIdx.z * p.groups + group) * p.outputs + row) * columns + column] = sum;
            return;
        }
        const int64 tap = column / p.channels, channel = column - tap * p.channels;
        ((typename Element::Result*)p.w)[((group * p.outputs + row) * p.channels + channel) * taps + tap] =
            Element::narrow(sum);
    };
    each_pair<Tile>(sums, thread, [&](int row, int column, Sum one, Sum other) {
        store(first_row + row, first_column + column, one);
        store(first_row + row, first_column + column + 1, other);
    });
}

template <class Element> DEVICE void add_gradient_splits(const Problem& p)
{
    typedef typename Element::Sum Sum;
    const int64 taps = p.taps[0] * p.taps[1] * p.taps[2], each = taps * p.channels;
    const int64 all = p.groups * p.outputs * each, stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += stride) {
        const int64 tap = i % taps, channel = i / taps % p.channels, row = i / each;
        const Sum* const parts = (const Sum*)p.partial + row * each + tap * p.channels + channel;
        Sum sum = parts[0];
        for (int64 part = 1; part < p.splits; part++)
            sum = add(sum, parts[part * all]);
        ((typename Element::Result*)p.w)[i] = Element::narrow(sum);
    }
}
