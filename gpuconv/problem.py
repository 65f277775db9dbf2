"""The convolution problem: all shape arithmetic and its validation.

A `ConvProblem` always describes the *forward* convolution y = w * x, of which the
transposed convolution and both gradients are operations:

=================  =======  ==========================================
operation          writes   reads
=================  =======  ==========================================
forward            y        x, w
transposed         x        y, w   (the adjoint of forward for real w)
input_gradient     x        y, w   (the adjoint: conjugates complex w)
weight_gradient    w        x, y
=================  =======  ==========================================

Along one axis, with input size i, kernel k, stride s, dilation d, input dilation b
(b - 1 zeros between neighbouring inputs) and padding (p, q), output o at position j
sums w[t] * x[(j*s + t*d - p) / b] over the taps t where the division is exact.
The formulas follow Dumoulin & Visin, "A guide to convolution arithmetic for deep
learning" (arXiv:1603.07285).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpuconv import problem_arguments as arguments
from gpuconv.boundary import MODES, canonical
from gpuconv.errors import ShapeError, UnsupportedError
from gpuconv.problem_arguments import LAYOUTS, Ints, Pairs

__all__ = ["LAYOUTS", "OPERATIONS", "AxisPhase", "ConvProblem"]

OPERATIONS = ("forward", "transposed", "input_gradient", "weight_gradient")


class AxisPhase(NamedTuple):
    """Outputs ``start, start + step, ...`` of one axis: those that meet the same taps.

    Output ``start + step * q`` reads input ``advance * q + offset`` for each tap
    ``(t, offset)`` in `taps`; `count` is the number of q. An ordinary convolution has one
    phase an axis; a transposed one of stride s has s, each an ordinary convolution of
    stride 1 on its share of the taps.
    """

    start: int
    step: int
    count: int  # type: ignore[assignment]
    advance: int
    taps: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class ConvProblem:
    """One forward convolution of spatial rank 1 to 3; frozen, hashable, valid once made.

    Make one with `make`, `make_transposed` or `adjoint`; the constructor checks nothing.

    Attributes
    ----------
    batch, in_channels, out_channels, groups : int
    spatial, kernel, stride, dilation, input_dilation : tuple of int
        One entry per spatial axis.
    padding : tuple of (before, after)
        Elements added to each end of each axis; negative ones crop.
    padding_mode : str
        One of `gpuconv.boundary.MODES`.
    padding_value : float
        What "zeros" pads with, 0 unless a caller says otherwise.
    layout : {"channels_first", "channels_last"}
        Order of the axes of x and y.
    batched : bool
        Whether x and y have a batch axis.
    """

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    spatial: Ints
    kernel: Ints
    stride: Ints
    dilation: Ints
    padding: Pairs
    input_dilation: Ints
    padding_mode: str = "zeros"
    padding_value: float = 0.0
    layout: str = "channels_first"
    batched: bool = True

    # Construction

    @classmethod
    def make(
        cls,
        x_shape: Sequence[int],
        w_shape: Sequence[int],
        *,
        rank: int | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        input_dilation: Any = 1,
        padding_mode: str = "zeros",
        padding_value: float = 0.0,
        layout: str = "channels_first",
    ) -> ConvProblem:
        """Return the problem of convolving an array of `x_shape` with weights of `w_shape`.

        Parameters
        ----------
        x_shape : sequence of int
            (N, C, spatial...) or (N, spatial..., C) by `layout`; N may be left out.
        w_shape : sequence of int
            (O, C/groups, kernel...).
        rank : int, optional
            Spatial axes that w must have; by default as many as it has.
        stride, dilation, input_dilation : int or one int per spatial axis
        padding : int, sequence or str
            One entry per spatial axis, each an int or a pair (before, after); one int for
            all; or "valid", "same" (output ceil(i/s), the extra element at the end),
            "same_lower" (at the start) or "causal" (all of it before).
        groups : int
        padding_mode, padding_value, layout
            As the attributes; `padding_mode` under any library's spelling.

        Raises
        ------
        ShapeError
            If the numbers do not fit together.
        UnsupportedError
            If a name is unknown, or a border other than zeros meets an input dilation.

        Examples
        --------
        >>> ConvProblem.make((1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3).y_shape
        (1, 64, 112, 112)
        """
        x_shape, w_shape = arguments.check_shape("x", x_shape), arguments.check_shape("w", w_shape)
        rank = arguments.check_rank(w_shape, rank)
        batched = arguments.is_batched("x", x_shape, rank)
        batch, channels, spatial = arguments.split_shape(x_shape, batched, layout)
        groups = arguments.check_groups(groups, channels)
        if w_shape[0] % groups:
            raise ShapeError(
                f"groups={groups} must divide the {w_shape[0]} output channels of w, whose shape is {w_shape}"
            )
        if w_shape[1] != channels // groups:
            raise ShapeError(
                f"w has shape {w_shape}: with groups={groups} and {channels} input channels "
                f"w.shape[1] must be {channels // groups}, not {w_shape[1]}"
            )
        strides = arguments.per_axis("stride", stride, rank, least=1)
        dilations = arguments.per_axis("dilation", dilation, rank, least=1)
        inner = arguments.per_axis("input_dilation", input_dilation, rank, least=1)
        mode = canonical(padding_mode)
        if any(b > 1 for b in inner) and (mode != "zeros" or padding_value != 0):
            raise UnsupportedError(
                f"padding_mode={padding_mode!r} with input_dilation={inner} and padding_value={padding_value}: "
                "only a border of zeros is defined there"
            )
        dilated = tuple((n - 1) * b + 1 for n, b in zip(spatial, inner, strict=True))
        extent = tuple(d * (k - 1) + 1 for k, d in zip(w_shape[2:], dilations, strict=True))
        pairs = arguments.forward_padding(padding, dilated, extent, strides)
        problem = cls(
            batch, channels, w_shape[0], groups, spatial, w_shape[2:], strides, dilations, pairs, inner,
            mode, padding_value, layout, batched,
        )  # fmt: skip
        problem._check_extents()
        return problem

    @classmethod
    def make_transposed(
        cls,
        y_shape: Sequence[int],
        w_shape: Sequence[int],
        *,
        rank: int | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        layout: str = "channels_first",
    ) -> ConvProblem:
        """Return the forward problem whose transpose maps an array of `y_shape` through `w_shape`.

        The array that the transposed convolution reads is the y of that problem, the one it
        writes is its x, of size (o-1)*s + d*(k-1) + 1 - p - q + output_padding.

        Parameters
        ----------
        y_shape : sequence of int
            The shape of the transposed convolution's input.
        w_shape : sequence of int
            (C, O/groups, kernel...) in the words of the transposed convolution.
        rank : int, optional
            Spatial axes that w must have; by default as many as it has.
        padding : int, sequence or str
            As for `make`, not negative; "same" gives y_shape * stride; "valid" is 0.
        output_padding : int or one int per spatial axis
            Elements added at the end; less than the larger of stride and dilation.

        Examples
        --------
        >>> ConvProblem.make_transposed((1, 8, 5, 5), (8, 4, 3, 3), stride=2, padding=1).x_shape
        (1, 4, 9, 9)
        """
        y_shape, w_shape = arguments.check_shape("x", y_shape), arguments.check_shape("w", w_shape)
        rank = arguments.check_rank(w_shape, rank)
        batched = arguments.is_batched("x", y_shape, rank)
        batch, channels, outputs = arguments.split_shape(y_shape, batched, layout)
        groups = arguments.check_groups(groups, channels)
        if w_shape[0] != channels:
            raise ShapeError(f"w has shape {w_shape}: w.shape[0] must be x's {channels} channels, not {w_shape[0]}")
        strides = arguments.per_axis("stride", stride, rank, least=1)
        dilations = arguments.per_axis("dilation", dilation, rank, least=1)
        extra = arguments.per_axis("output_padding", output_padding, rank, least=0)
        for axis, (a, s, d) in enumerate(zip(extra, strides, dilations, strict=True)):
            if a >= max(s, d):
                raise ShapeError(
                    f"output_padding={a} on axis {axis} must be less than the larger of stride={s} and dilation={d}"
                )
        if canonical(padding_mode) != "zeros":
            raise UnsupportedError(
                f"padding_mode={padding_mode!r}: a transposed convolution has the 'zeros' border only"
            )
        extent = tuple(d * (k - 1) + 1 for k, d in zip(w_shape[2:], dilations, strict=True))
        pairs = arguments.transposed_padding(padding, extent, strides, extra)
        full = tuple((o - 1) * s + e for o, s, e in zip(outputs, strides, extent, strict=True))
        spatial = tuple(f - p - q + a for f, (p, q), a in zip(full, pairs, extra, strict=True))
        for axis, n in enumerate(spatial):
            if n < 1:
                raise ShapeError(
                    f"padding={pairs[axis]} on axis {axis} leaves an output of size {n}: "
                    f"the unpadded output has only {full[axis] + extra[axis]}"
                )
        # Output padding lengthens x at its end. The forward problem reads no further for it, so its own
        # padding there is shorter by as much.
        forward = tuple((p, q - a) for (p, q), a in zip(pairs, extra, strict=True))
        return cls(
            batch, w_shape[1] * groups, channels, groups, spatial, w_shape[2:], strides, dilations, forward,
            (1,) * rank, "zeros", 0.0, layout, batched,
        )  # fmt: skip

    def _check_extents(self) -> None:
        for axis in range(self.rank):
            (p, q), n, extent = self.padding[axis], self.dilated[axis], self.extent[axis]
            if n + min(p, 0) + min(q, 0) < 1:
                raise ShapeError(f"padding={(p, q)} on axis {axis} crops all of an input of size {n}")
            if n + p + q < extent:
                raise ShapeError(
                    f"the kernel spans {extent} elements on axis {axis} (size {self.kernel[axis]}, "
                    f"dilation {self.dilation[axis]}), more than the padded input's {n + p + q}"
                )

    # Derived quantities

    @functools.cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in dataclasses.fields(self)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.spatial)

    @functools.cached_property
    def dilated(self) -> Ints:
        """Spatial size of the input with its input dilation's zeros."""
        return tuple((n - 1) * b + 1 for n, b in zip(self.spatial, self.input_dilation, strict=True))

    @functools.cached_property
    def extent(self) -> Ints:
        """Elements that the dilated kernel spans: d*(k-1) + 1."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @functools.cached_property
    def output(self) -> Ints:
        """Spatial size of y: floor((i + p + q - extent) / s) + 1."""
        return tuple(
            (n + p + q - e) // s + 1
            for n, (p, q), e, s in zip(self.dilated, self.padding, self.extent, self.stride, strict=True)
        )

    @functools.cached_property
    def x_shape(self) -> Ints:
        """Shape of the forward problem's input."""
        return self._array_shape(self.in_channels, self.spatial)

    @functools.cached_property
    def y_shape(self) -> Ints:
        """Shape of the forward problem's output."""
        return self._array_shape(self.out_channels, self.output)

    @functools.cached_property
    def w_shape(self) -> Ints:
        """Shape of the weights: (O, C/groups, kernel...)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    def _array_shape(self, channels: int, spatial: Ints) -> Ints:
        batch = (self.batch,) if self.batched else ()
        return (*batch, channels, *spatial) if self.layout == "channels_first" else (*batch, *spatial, channels)

    def shapes(self, operation: str) -> tuple[Ints, Ints, Ints]:
        """Return the shapes of what `operation` reads (two) and writes, in its callers' order."""
        if operation == "forward":
            return self.x_shape, self.w_shape, self.y_shape
        if operation == "weight_gradient":
            return self.x_shape, self.y_shape, self.w_shape
        return self.y_shape, self.w_shape, self.x_shape

    @functools.cached_property
    def gemm(self) -> tuple[int, int, int]:
        """(M, N, K) of the matrix product that one group's forward convolution is."""
        return (
            self.out_channels // self.groups,
            self.batch * math.prod(self.output),
            self.in_channels // self.groups * math.prod(self.kernel),
        )

    @functools.cached_property
    def flops(self) -> int:
        """Real multiplications and additions of the definition, the same for every operation."""
        inner = math.prod(b for b in self.input_dilation)
        return 2 * self.groups * math.prod(self.gemm) // inner

    @functools.cached_property
    def cropped(self) -> Pairs:
        """For each axis the range (first, last + 1) of inputs that negative padding leaves."""
        return tuple(
            (max(-p, 0), n - max(-q, 0)) if b == 1 else (0, n)
            for n, (p, q), b in zip(self.spatial, self.padding, self.input_dilation, strict=True)
        )

    # Operations on problems

    def adjoint(self) -> ConvProblem:
        """Return the forward problem that computes this one's transpose, with the kernel flipped.

        It reads y, dilated by the stride, and writes x; its weights are w with its two channel
        axes exchanged within each group and every spatial axis reversed. Padding changes to
        extent - 1 - p, and at the end to whatever gives x's size.
        """
        pairs = []
        for axis in range(self.rank):
            extent = self.extent[axis]
            before = extent - 1 - self.padding[axis][0]
            dilated = (self.output[axis] - 1) * self.stride[axis] + 1
            pairs.append((before, (self.spatial[axis] - 1) * self.input_dilation[axis] + extent - dilated - before))
        return dataclasses.replace(
            self,
            in_channels=self.out_channels,
            out_channels=self.in_channels,
            spatial=self.output,
            stride=self.input_dilation,
            input_dilation=self.stride,
            padding=tuple(pairs),
            padding_mode="zeros",
            padding_value=0.0,
        )

    def on_padded(self) -> ConvProblem:
        """Return the same convolution on an input that has its border already: padding 0."""
        spatial = tuple(n + p + q for n, (p, q) in zip(self.spatial, self.padding, strict=True))
        return dataclasses.replace(
            self, spatial=spatial, padding=((0, 0),) * self.rank, padding_mode="zeros", padding_value=0.0
        )

    def phases(self, axis: int) -> tuple[AxisPhase, ...]:
        """Return the phases of one axis, in the order of their first output."""
        s, d, b = self.stride[axis], self.dilation[axis], self.input_dilation[axis]
        before, size = self.padding[axis][0], self.output[axis]
        step = b // math.gcd(s, b)
        found = []
        for start in range(min(step, size)):
            taps = tuple(
                (t, position // b)
                for t in range(self.kernel[axis])
                if (position := start * s + t * d - before) % b == 0
            )
            found.append(AxisPhase(start, step, -(-(size - start) // step), step * s // b, taps))
        return tuple(found)

    @functools.cached_property
    def all_phases(self) -> tuple[tuple[AxisPhase, ...], ...]:
        """One tuple with a phase per axis for every combination of the axes' phases."""
        return tuple(itertools.product(*(self.phases(axis) for axis in range(self.rank))))

    @property
    def mode_code(self) -> int:
        """The border mode as kernels receive it."""
        return MODES.index(self.padding_mode)
