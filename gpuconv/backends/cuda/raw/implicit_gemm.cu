// One instance: the names in capitals are constants of the compilation.
#include "implicit_gemm.cuh"

extern "C" __global__ void __launch_bounds__(Tile<TILE>::threads, BLOCKS) NAME(const Problem p)
{
    implicit_gemm<ELEMENT, READS == gather, Tile<TILE>, ACTIVATION>(p);
}

extern "C" __global__ void __launch_bounds__(256) NAME_OF_SECOND_PASS(const Problem p)
{
    add_splits<ELEMENT, ACTIVATION>(p);
}
