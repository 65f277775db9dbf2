// A block's threads in software: fibers of one thread of the host, their barriers, and meetings of a warp's lanes.
//
// A fiber runs until it waits: at a barrier for its block, or in an instruction of the whole warp for the other 31
// lanes. The last lane to arrive does the instruction for all of them. Fibers can run in either order, so that what one
// thread must not see of another before a barrier is missing, or already overwritten, in one of the two.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

struct Copy {
    void* target;
    const void* source;
    bool take;
};

enum class State { ready, at_barrier, in_warp, done };

struct Fiber {
    ucontext_t context;
    std::vector<unsigned char> stack = std::vector<unsigned char>(256 << 10);
    State state = State::done;
    int instruction = 0; // Of the warp, while it waits in one.
    const void* operands = nullptr;
    std::vector<std::vector<Copy>> committed;
    std::vector<Copy> open;
    void* fake_stack = nullptr;
};

struct Machine {
    std::vector<Fiber> fibers;
    ucontext_t scheduler;
    void* scheduler_fake_stack = nullptr;
    const void* scheduler_stack = nullptr;
    std::size_t scheduler_stack_size = 0;
    std::function<void()> kernel;
    unsigned char* shared = nullptr;
    int current = 0;
};

inline Machine machine;
inline Index thread_index, block_index, block_size, grid_size;

[[noreturn]] inline void fail(const char* what)
{
    std::fprintf(stderr, "emulation: %s (block %u, thread %d)\n", what, block_index.x, machine.current);
    std::abort();
}

inline void leave(bool forever = false)
{
    Fiber& self = machine.fibers[machine.current];
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(forever ? nullptr : &self.fake_stack, machine.scheduler_stack,
                                   machine.scheduler_stack_size);
#endif
    swapcontext(&self.context, &machine.scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self.fake_stack, nullptr, nullptr);
#endif
    (void)forever;
}

inline void enter(int thread)
{
    machine.current = thread;
    thread_index.x = (unsigned)thread;
    Fiber& next = machine.fibers[thread];
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&machine.scheduler_fake_stack, next.stack.data(), next.stack.size());
#endif
    swapcontext(&machine.scheduler, &next.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(machine.scheduler_fake_stack, nullptr, nullptr);
#endif
}

inline void body()
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack, &machine.scheduler_stack_size);
#endif
    machine.kernel();
    machine.fibers[machine.current].state = State::done;
    leave(true);
}

inline void wait_for_block()
{
    machine.fibers[machine.current].state = State::at_barrier;
    leave();
}

// Meets the other lanes of the warp in an instruction; the last one calls `act` with every lane's operands.
template <class Operands, class Act> void with_warp(int instruction, const Operands& operands, const Act& act)
{
    Fiber& self = machine.fibers[machine.current];
    self.instruction = instruction, self.operands = &operands, self.state = State::in_warp;
    const int first = machine.current / 32 * 32;
    for (int lane = 0; lane < 32; lane++)
        if (machine.fibers[first + lane].state != State::in_warp) {
            leave();
            return;
        }
    const Operands* all[32];
    for (int lane = 0; lane < 32; lane++) {
        Fiber& other = machine.fibers[first + lane];
        if (other.instruction != instruction)
            fail("the lanes of a warp meet in different instructions");
        all[lane] = (const Operands*)other.operands;
        other.state = State::ready;
    }
    act(all);
}

inline void run_block(int threads, bool backwards)
{
    for (int i = 0; i < threads; i++) {
        Fiber& fiber = machine.fibers[i];
        fiber.state = State::ready;
        fiber.open.clear(), fiber.committed.clear();
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, body, 0);
    }
    for (;;) {
        int ran = 0, done = 0, waiting = 0;
        for (int i = 0; i < threads; i++) {
            const int thread = backwards ? threads - 1 - i : i;
            if (machine.fibers[thread].state == State::ready)
                enter(thread), ran++;
        }
        for (int i = 0; i < threads; i++) {
            done += machine.fibers[i].state == State::done;
            waiting += machine.fibers[i].state == State::at_barrier;
        }
        if (done == threads)
            return;
        if (waiting == threads)
            for (int i = 0; i < threads; i++)
                machine.fibers[i].state = State::ready;
        else if (!ran)
            fail("some threads wait for others that never come");
    }
}

// Runs a kernel, poisoning shared memory before each block.
inline void launch(const int64_t* grid, int threads, std::size_t shared, bool backwards, std::function<void()> kernel)
{
    if (threads % 32)
        fail("a block must be whole warps");
    if ((int)machine.fibers.size() < threads)
        machine.fibers.resize(threads);
    machine.kernel = std::move(kernel);
    void* memory = nullptr;
    if (shared && posix_memalign(&memory, 128, shared))
        fail("no memory");
    machine.shared = (unsigned char*)memory;
    block_size = {(unsigned)threads, 1, 1};
    grid_size = {(unsigned)grid[0], (unsigned)grid[1], (unsigned)grid[2]};
    for (unsigned z = 0; z < grid_size.z; z++)
        for (unsigned y = 0; y < grid_size.y; y++)
            for (unsigned x = 0; x < grid_size.x; x++) {
                block_index = {x, y, z};
                if (shared)
                    std::memset(memory, 0xff, shared);
                run_block(threads, backwards);
            }
    std::free(memory);
    machine.kernel = nullptr;
}

} // namespace emulation
