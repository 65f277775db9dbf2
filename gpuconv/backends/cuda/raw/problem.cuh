// What a kernel is told of a convolution, and where an output position lies.
#pragma once
#include "device.cuh"

// The order is that of implicit_gemm_geometry.FIELDS. Offsets and strides count elements.
struct Problem {
    unsigned char *x, *w, *bias, *y, *partial;
    int64 rows, outputs, groups, first_group, splits;
    int64 channels, padded; // Input channels of a group, and what the weights round them up to.
    int64 taps[3], count[3], advance[3], first[3], delta[3], length[3];
    int64 mode;
    int64 x_start, x_batch, x_channel, x_axis[3];
    int64 y_start, y_batch, y_channel, y_axis[3];
    int64 paired; // Whether two neighbouring output channels can be written at once.
};

// What a block keeps of an output position.
struct alignas(16) Position {
    int64 x; // Where channel 0 of its first tap would be read if there were no border.
    int64 y; // Where its channel 0 is written, or -1 beyond the last position.
    int at[3], unused;
};

DEVICE Position position_of(const Problem& p, int64 row)
{
    Position found;
    if (row >= p.rows) {
        found.x = 0, found.y = -1;
        found.at[0] = found.at[1] = found.at[2] = 0;
        return found;
    }
    const int64 image = p.count[0] * p.count[1] * p.count[2], batch = row / image;
    unsigned rest = (unsigned)(row - batch * image); // An image has fewer than 2^31 positions.
    const unsigned q2 = rest % (unsigned)p.count[2];
    rest /= (unsigned)p.count[2];
    const unsigned q1 = rest % (unsigned)p.count[1], q0 = rest / (unsigned)p.count[1];
    found.x = p.x_start + batch * p.x_batch;
    found.y = p.y_start + batch * p.y_batch + q0 * p.y_axis[0] + q1 * p.y_axis[1] + q2 * p.y_axis[2];
    found.at[0] = (int)(q0 * p.advance[0] + p.first[0]);
    found.at[1] = (int)(q1 * p.advance[1] + p.first[1]);
    found.at[2] = (int)(q2 * p.advance[2] + p.first[2]);
#pragma unroll
    for (int axis = 0; axis < 3; axis++)
        found.x += found.at[axis] * p.x_axis[axis];
    return found;
}

// Whether a position's element for a tap is read, and, with a border other than zeros, how far it lies from where it
// would without one. `away` is the tap's distance from the first tap.
template <bool border>
DEVICE bool within(const Problem& p, const Position& position, const int (&away)[3], int64& shift)
{
    bool inside = position.y >= 0;
    shift = 0;
#pragma unroll
    for (int axis = 0; axis < 3; axis++) {
        const int wanted = position.at[axis] + away[axis];
        if (border)
            shift += (source_index((int)p.mode, wanted, (int)p.length[axis]) - wanted) * p.x_axis[axis];
        else
            inside = inside && (unsigned)wanted < (unsigned)p.length[axis];
    }
    return inside;
}
