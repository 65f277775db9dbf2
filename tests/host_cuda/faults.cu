// A kernel with one mistake at a time, by number, each of which the emulation must not forgive. Each of 64 threads
// copies four numbers to shared memory and reads another thread's first.
#include "device.cuh"

enum Fault { none, no_wait, no_barrier, misaligned, missed_barrier, diverged, beyond };

static void kernel(const float* in, float* out, int fault)
{
    float* const memory = (float*)shared_memory();
    const int thread = threadIdx.x;
    copy_async(memory + 4 * thread + (fault == misaligned), in + 4 * thread, true);
    copy_async_commit();
    if (fault != no_wait)
        copy_async_wait<0>();
    if (fault == missed_barrier && thread == 5)
        return;
    if (fault != no_barrier)
        barrier();
    if (fault == diverged) {
        if (thread % 32 < 16) {
            any_lane(true);
        } else {
            uint32_t r[1][4];
            const unsigned char* const rows[1] = {shared_memory()};
            load_matrices(r, rows);
        }
    }
    out[thread] = memory[4 * ((thread + 33) % 64) + (fault == beyond ? 256 : 0)];
}

extern "C" void run(const float* in, float* out, int fault, int backwards)
{
    const int64_t grid[3] = {1, 1, 1};
    emulation::launch(grid, 64, 64 * 16, backwards, [=] { kernel(in, out, fault); });
}
