// What is applied to a result after the bias: a constant of the compilation, since most kernels have none.
#pragma once
#include "device.cuh"

enum Activation { none, relu, gelu, gelu_tanh, silu };

template <Activation activation> DEVICE float activated(float y)
{
    if constexpr (activation == relu)
        return y < 0.0f ? 0.0f : y; // NaN stays NaN.
    if constexpr (activation == gelu)
        return 0.5f * y * error_complement(-0.70710678f * y);
    if constexpr (activation == gelu_tanh)
        return 0.5f * y * (1.0f + hyperbolic_tangent(y * (0.79788456f + 0.035677408f * y * y)));
    if constexpr (activation == silu)
        return y / (1.0f + exponential(-y));
    return y;
}

template <Activation activation> DEVICE int activated(int y)
{
    static_assert(activation == none, "integers have no activations");
    return y;
}
