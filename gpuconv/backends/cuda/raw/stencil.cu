// One instance: the names in capitals are constants of the compilation.
#include "stencil.cuh"

extern "C" __global__ void __launch_bounds__(128, HEIGHT > 0 ? 4 : 3) NAME(const Problem p)
{
    Stencil<ELEMENT, HEIGHT, WIDTH, SHIFT, ALIGNED, ACTIVATION>::run(p);
}
