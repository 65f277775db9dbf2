// Depthwise convolution of channels that lie together: each output channel reads one input channel.
//
// A thread has sixteen bytes of channels and a strip of outputs along the last axis. Where the last axis' taps are a
// constant of the compilation, and lie one apart as neighbouring outputs do, each input is loaded once for all of them.
#pragma once
#include "activation.cuh"
#include "element.cuh"
#include "problem.cuh"

template <class Element, int taps, int strip, Activation activation> struct Depthwise {
    typedef typename Element::Stored Stored;
    static constexpr int wide = 16 / sizeof(Stored);

    struct Values {
        float at[wide];
    };

    static DEVICE Values load(const Stored* from, bool read)
    {
        union {
            Chunk chunk;
            Stored elements[wide];
        } loaded;
        loaded.chunk = read ? *(const Chunk*)from : Chunk{};
        Values values;
#pragma unroll
        for (int e = 0; e < wide; e++)
            values.at[e] = Element::widen(loaded.elements[e]);
        return values;
    }

    static DEVICE void multiply_add(Values& sum, const Values& a, const Values& b)
    {
#pragma unroll
        for (int e = 0; e < wide; e++)
            sum.at[e] += a.at[e] * b.at[e];
    }

    static DEVICE void run(const Problem& p)
    {
        // Rows are counted in 32 bits, and so are the chunks and strips of one (raw_depthwise.supports).
        const unsigned chunks = (unsigned)(p.groups / wide), strips = (unsigned)((p.count[2] + strip - 1) / strip);
        const unsigned item = blockIdx.x * blockDim.x + threadIdx.x, rest = item % (chunks * strips);
        const unsigned row = (unsigned)p.first_group + item / (chunks * strips);
        const unsigned planes = (unsigned)(p.count[0] * p.count[1]);
        if (row >= (unsigned)p.splits)
            return;
        const int64 channel = (int64)(rest % chunks) * wide, first = (int64)(rest / chunks) * strip;
        const unsigned batch = row / planes, plane = row % planes;
        const unsigned q0 = plane / (unsigned)p.count[1], q1 = plane % (unsigned)p.count[1];
        const Stored* const x = (const Stored*)p.x + p.x_start + batch * p.x_batch + channel;
        const Stored* w = (const Stored*)p.w + channel;
        const int start = (int)(first * p.advance[2] + p.first[2]);

        Values sums[strip] = {};
        for (int t0 = 0; t0 < (int)p.taps[0]; t0++) {
            const int at0 = index(p, 0, q0, t0);
            for (int t1 = 0; t1 < (int)p.taps[1]; t1++) {
                const int at1 = index(p, 1, q1, t1);
                // A row of the border is multiplied too: 0 times a weight that is not finite is a NaN.
                const bool inside = at0 >= 0 && at1 >= 0;
                const Stored* const from = inside ? x + at0 * p.x_axis[0] + at1 * p.x_axis[1] : x;
                if constexpr (taps > 0)
                    slide(p, sums, from, inside, w, start);
                else
                    step(p, sums, from, inside, w, start);
                w += p.taps[2] * p.groups;
            }
        }

        const int64 place = p.y_start + batch * p.y_batch + q0 * p.y_axis[0] + q1 * p.y_axis[1] + channel;
#pragma unroll
        for (int i = 0; i < strip; i++)
            if (first + i < p.count[2])
                store(p, place + (first + i) * p.y_axis[2], channel, sums[i]);
    }

    static DEVICE int index(const Problem& p, int axis, unsigned q, int tap)
    {
        const int at = (int)(q * p.advance[axis] + p.first[axis] + tap * p.delta[axis]);
        return source_index((int)p.mode, at, (int)p.length[axis]);
    }

    static DEVICE void slide(const Problem& p, Values (&sums)[strip], const Stored* from, bool inside, const Stored* w,
                             int start)
    {
        Values weights[taps > 0 ? taps : 1];
#pragma unroll
        for (int t = 0; t < taps; t++)
            weights[t] = load(w + t * p.groups, true);
#pragma unroll
        for (int u = 0; u < strip + taps - 1; u++) {
            const int at = source_index((int)p.mode, start + u, (int)p.length[2]);
            const bool read = inside && at >= 0;
            const Values values = load(read ? from + at * p.x_axis[2] : from, read);
#pragma unroll
            for (int t = 0; t < taps; t++)
                if (u - t >= 0 && u - t < strip)
                    multiply_add(sums[u - t], values, weights[t]);
        }
    }

    static DEVICE void step(const Problem& p, Values (&sums)[strip], const Stored* from, bool inside, const Stored* w,
                            int start)
    {
        for (int t = 0; t < (int)p.taps[2]; t++) {
            const Values weight = load(w + t * p.groups, true);
#pragma unroll
            for (int i = 0; i < strip; i++) {
                const int wanted = start + i * (int)p.advance[2] + t * (int)p.delta[2];
                const int at = source_index((int)p.mode, wanted, (int)p.length[2]);
                const bool read = inside && at >= 0;
                multiply_add(sums[i], load(read ? from + at * p.x_axis[2] : from, read), weight);
            }
        }
    }

    static DEVICE void store(const Problem& p, int64 place, int64 channel, const Values& sum)
    {
        union {
            Chunk chunk;
            Stored elements[wide];
        } stored;
#pragma unroll
        for (int e = 0; e < wide; e++) {
            const float bias = p.bias ? Element::widen(((const Stored*)p.bias)[channel + e]) : 0.0f;
            stored.elements[e] = Element::narrow(activated<activation>(p.bias ? sum.at[e] + bias : sum.at[e]));
        }
        *(Chunk*)((Stored*)p.y + place) = stored.chunk;
    }
};
