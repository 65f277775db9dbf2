// One instance: the names in capitals are constants of the compilation.
#include "weight_gradient.cuh"

extern "C" __global__ void __launch_bounds__(Tile<TILE>::threads, BLOCKS) NAME(const Problem p)
{
    weight_gradient<ELEMENT, READS, Tile<TILE>>(p);
}

extern "C" __global__ void __launch_bounds__(256) NAME_OF_SECOND_PASS(const Problem p)
{
    add_gradient_splits<ELEMENT>(p);
}
