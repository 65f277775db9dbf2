// One instance: the names in capitals are constants of the compilation.
#include "depthwise.cuh"

extern "C" __global__ void __launch_bounds__(128, 4) NAME(const Problem p)
{
    Depthwise<ELEMENT, TAPS, STRIP, ACTIVATION>::run(p);
}
