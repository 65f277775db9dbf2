"""The shared list of problems: plain data that tests, benchmarks and documentation walk.

`CASES` holds everything that a test should run: degenerate, edge, transposed, network (scaled
down) and random problems, each cheap for the oracle. `network(1)` gives the networks' layers
at full size. A new problem is one line here, and every algorithm meets it.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

from gpuconv.boundary import MODES
from gpuconv.problem import ConvProblem

__all__ = ["AWKWARD", "CASES", "EVERY_DTYPE", "THREADED", "Case", "by_name", "network", "random_cases"]

Ints = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """One named problem: shapes and the keywords of `gpuconv.conv*d`.

    Of a transposed case `x_shape`, `w_shape` and `keywords` are those of `gpuconv.conv_transpose*d`.
    """

    name: str
    x_shape: Ints
    w_shape: Ints
    keywords: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    kind: str = "edge"
    transposed: bool = False
    dtypes: tuple[str, ...] = ("float32", "float64")

    @property
    def rank(self) -> int:
        return len(self.w_shape) - 2

    @property
    def public(self) -> bool:
        """Whether a public function can pose the problem: none has an input dilation."""
        return "input_dilation" not in self.keywords

    @property
    def function(self) -> str:
        """Name of the public function that the case is a call of."""
        return f"conv{'_transpose' if self.transposed else ''}{self.rank}d"

    def problem(self) -> ConvProblem:
        """Return the forward problem."""
        make = ConvProblem.make_transposed if self.transposed else ConvProblem.make
        return make(self.x_shape, self.w_shape, **self.keywords)

    def __str__(self) -> str:
        return self.name


def _degenerate() -> Iterator[Case]:
    for name, x, w, keywords in (
        ("batch-0", (0, 3, 5, 5), (4, 3, 3, 3), {}),
        ("batch-0-channels-last", (0, 5, 3), (4, 3, 2), {"layout": "channels_last", "stride": 2}),
        ("channels-0", (2, 0, 6), (3, 0, 3), {}),
        ("channels-0-groups", (1, 0, 5), (4, 0, 3), {"groups": 2, "padding": 1}),
        ("outputs-0", (2, 3, 6), (0, 3, 3), {}),
        ("outputs-0-groups", (1, 4, 5, 4), (0, 2, 2, 2), {"groups": 2}),
        ("channels-and-outputs-0", (1, 0, 4, 4), (0, 0, 2, 2), {}),
        ("one-element-1d", (1, 1, 1), (1, 1, 1), {}),
        ("one-element-3d", (1, 1, 1, 1), (1, 1, 1, 1, 1), {}),
        ("pointwise-1d", (2, 5, 11), (3, 5, 1), {}),
        ("pointwise-2d", (3, 6, 5, 7), (4, 6, 1, 1), {}),
        ("pointwise-3d", (1, 3, 2, 3, 4), (5, 3, 1, 1, 1), {"stride": 2}),
        ("pointwise-one-pixel", (4, 19, 1, 1), (11, 19, 1, 1), {}),
        ("kernel-is-input-1d", (2, 3, 9), (4, 3, 9), {}),
        ("kernel-is-input-2d", (2, 3, 5, 4), (3, 3, 5, 4), {}),
        ("kernel-is-input-3d", (1, 2, 3, 2, 4), (2, 2, 3, 2, 4), {}),
        ("kernel-is-padded-input", (1, 2, 3, 3), (2, 2, 5, 7), {"padding": (1, 2)}),
        ("stride-beyond-input", (2, 2, 5), (3, 2, 2), {"stride": 7}),
        ("stride-above-kernel", (2, 3, 17), (4, 3, 2), {"stride": 3}),
        ("stride-above-kernel-2d", (1, 2, 11, 13), (3, 2, 1, 2), {"stride": (4, 5)}),
        ("dilation-spans-input", (1, 2, 15), (3, 2, 2), {"dilation": 14}),
        ("dilation-large-2d", (1, 2, 21, 17), (2, 2, 3, 2), {"dilation": (9, 16)}),
        ("all-padding-but-one", (1, 1, 1), (1, 1, 1), {"padding": 5}),
        ("padding-huge", (1, 2, 3), (2, 2, 3), {"padding": 40}),
        ("padding-huge-one-side", (1, 1, 2, 3), (2, 1, 2, 2), {"padding": ((37, 0), (0, 35))}),
        ("padding-huge-stride", (1, 2, 3), (2, 2, 3), {"padding": (((64, 33)),), "stride": 9}),
        ("crop-to-one", (1, 2, 9), (2, 2, 1), {"padding": -4}),
        ("crop-one-side-pad-other", (2, 2, 9, 8), (3, 2, 3, 3), {"padding": ((-3, 4), (5, -6))}),
    ):
        yield Case(name, x, w, keywords, "degenerate")


def _sizes() -> Iterator[Case]:
    """Sizes around vector widths and register tiles, where remainders are handled."""
    for i, width in enumerate((1, 3, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65)):
        yield Case(f"width-{width}-1d", (2, 3, width), (5, 3, 3), {"padding": 1})
        yield Case(f"width-{width}-2d", (1, 2 + i % 3, 3, width), (4 + i % 5, 2 + i % 3, 3, 3), {"padding": "same"})
        yield Case(f"width-{width}-stride-2", (1, 2, 4, 2 * width), (3, 2, 2, 2), {"stride": 2})
        yield Case(f"width-{width}-image", (1, 5, width), (1, 1, 3, 3), {"padding": 1, "padding_mode": MODES[i % 5]})
    tiles = (1, 2, 3, 5, 7, 8, 9, 17)
    for i, channels in enumerate(tiles):
        outputs = tiles[(3 * i + 2) % len(tiles)]
        yield Case(f"channels-{channels}-to-{outputs}", (2, channels, 4, 6), (outputs, channels, 3, 3), {"padding": 1})
        yield Case(
            f"channels-{outputs}-to-{channels}-1d", (1, outputs, 19), (channels, outputs, 4), {"stride": 1 + i % 3}
        )
        yield Case(
            f"channels-{channels}-to-{outputs}-last", (1, 5, 7, channels), (outputs, channels, 2, 3),
            {"layout": "channels_last", "padding": "same"},
        )  # fmt: skip
    for name, x, w, keywords in (
        ("long-signal", (1, 1, 70_000), (1, 1, 9), {"padding": "same"}),
        ("long-signal-strided", (1, 2, 70_001), (3, 2, 5), {"stride": 4, "padding_mode": "wrap", "padding": 2}),
        ("long-kernel", (1, 1, 900), (2, 1, 257), {"padding": 128}),
        ("wide-image", (1, 3, 5000), (1, 1, 3, 3), {"padding": 1, "padding_mode": "symmetric"}),
        ("wide-channels-last", (1, 3, 1500, 4), (5, 4, 3, 3), {"layout": "channels_last", "padding": 1}),
        ("tall-image", (1, 2, 5000, 3), (2, 2, 3, 3), {"padding": 1, "padding_mode": "nearest"}),
        ("deep-volume", (1, 2, 400, 2, 3), (2, 2, 3, 1, 2), {"padding": 1}),
        ("many-channels", (1, 72, 7, 7), (40, 72, 3, 3), {"padding": 1}),
        ("many-channels-pointwise", (2, 130, 7, 7), (67, 130, 1, 1), {}),
        ("many-channels-last", (1, 7, 7, 72), (40, 72, 3, 3), {"padding": 1, "layout": "channels_last"}),
        ("many-batches", (33, 2, 5, 5), (3, 2, 3, 3), {}),
        ("wide-kernel", (1, 2, 7, 40), (3, 2, 1, 31), {"padding": (0, 15)}),
        ("tall-kernel", (1, 2, 40, 7), (3, 2, 31, 1), {"padding": (15, 0)}),
        ("even-kernel", (2, 3, 9, 10), (4, 3, 2, 4), {"padding": "same"}),
        ("large-kernel", (1, 2, 19, 21), (2, 2, 11, 11), {"padding": 5}),
    ):
        yield Case(name, x, w, keywords)


def _geometries() -> Iterator[Case]:
    for name, x, w, keywords in (
        ("stride-anisotropic", (2, 3, 11, 13), (4, 3, 3, 2), {"stride": (3, 2)}),
        ("stride-3d", (1, 2, 7, 8, 9), (3, 2, 2, 3, 2), {"stride": (2, 1, 3)}),
        ("dilation-anisotropic", (1, 3, 12, 14), (2, 3, 3, 3), {"dilation": (2, 4), "padding": (2, 4)}),
        ("dilation-and-stride", (1, 2, 23), (3, 2, 4), {"dilation": 3, "stride": 2, "padding": 5}),
        ("dilation-3d", (1, 2, 7, 6, 8), (2, 2, 2, 3, 2), {"dilation": (3, 2, 4), "padding": 1}),
        ("stride-divides-dilation", (2, 2, 19, 18), (3, 2, 3, 3), {"stride": 2, "dilation": 4, "padding": 4}),
        ("asymmetric", (2, 3, 8, 9), (4, 3, 3, 4), {"padding": ((2, 0), (1, 4))}),
        ("asymmetric-3d", (1, 2, 4, 5, 6), (3, 2, 3, 3, 3), {"padding": ((2, 1), (0, 3), (1, 0)), "stride": 2}),
        ("crop", (2, 3, 9, 11), (4, 3, 3, 3), {"padding": (-2, -1)}),
        ("crop-and-pad", (1, 3, 12), (2, 3, 3), {"padding": ((-5, 2),)}),
        ("crop-stride-3d", (1, 2, 8, 9, 7), (2, 2, 2, 2, 2), {"padding": ((-1, -2), (0, -3), (2, -1)), "stride": 2}),
        ("groups-2", (2, 6, 7, 8), (4, 3, 3, 3), {"groups": 2, "padding": 1}),
        ("groups-3-odd", (1, 9, 6, 5), (15, 3, 3, 2), {"groups": 3, "stride": 2}),
        ("groups-many", (1, 34, 13), (17, 2, 3), {"groups": 17}),
        ("groups-3d", (1, 6, 4, 5, 4), (9, 2, 2, 2, 2), {"groups": 3, "padding": 1}),
        ("groups-channels-last", (2, 7, 6, 10), (15, 2, 3, 3), {"groups": 5, "layout": "channels_last"}),
        ("depthwise", (2, 8, 9, 9), (8, 1, 3, 3), {"groups": 8, "padding": 1}),
        ("depthwise-1d", (2, 5, 21), (5, 1, 7), {"groups": 5, "padding": "causal", "dilation": 2}),
        ("depthwise-3d", (1, 3, 5, 6, 7), (3, 1, 3, 3, 3), {"groups": 3, "padding": 1}),
        ("depthwise-stride", (1, 9, 12, 33), (9, 1, 5, 5), {"groups": 9, "stride": 2, "padding": "same"}),
        ("depthwise-multiplier", (2, 4, 9, 10), (12, 1, 3, 3), {"groups": 4, "padding": 1}),
        ("depthwise-last", (1, 9, 10, 17), (17, 1, 3, 3), {"groups": 17, "padding": 1, "layout": "channels_last"}),
        ("depthwise-multiplier-last", (1, 9, 5), (10, 1, 3), {"groups": 5, "layout": "channels_last", "dilation": 2}),
        ("unbatched-1d", (3, 12), (4, 3, 5), {"padding": 2}),
        ("unbatched-2d-last", (7, 8, 3), (5, 3, 3, 3), {"layout": "channels_last", "stride": 2}),
        ("unbatched-3d", (2, 5, 6, 4), (3, 2, 3, 2, 2), {"padding_mode": "mirror", "padding": 1}),
        (
            "channels-last-3d",
            (2, 4, 5, 6, 3),
            (4, 3, 2, 3, 3),
            {"layout": "channels_last", "padding": 1, "dilation": 2},
        ),
        ("volume", (2, 3, 6, 7, 9), (4, 3, 3, 3, 3), {"padding": 1}),
        ("fill-value", (1, 2, 5, 6), (3, 2, 3, 3), {"padding": ((2, 1), (0, 3)), "padding_value": 3.0}),
        ("input-dilation", (2, 3, 6), (4, 3, 3), {"input_dilation": 3, "padding": 2}),
        ("input-dilation-2d", (1, 2, 5, 4), (3, 2, 3, 4), {"input_dilation": (2, 3), "stride": (3, 2), "padding": 3}),
    ):
        yield Case(name, x, w, keywords)
    for word in ("same", "same_lower", "causal"):
        for stride, kernel in ((1, 4), (2, 3), (3, 2), (3, 5)):
            name = f"{word}-stride-{stride}-kernel-{kernel}"
            keywords: dict[str, Any] = {"padding": word, "stride": stride}
            yield Case(f"{name}-1d", (2, 2, 11), (3, 2, kernel), keywords)
            yield Case(f"{name}-2d", (1, 2, 10, 7), (3, 2, kernel, 3), {**keywords, "dilation": (1, 2)})
        yield Case(f"{word}-3d", (1, 2, 5, 4, 3), (2, 2, 2, 3, 4), {"padding": word})


def _borders() -> Iterator[Case]:
    for mode in MODES:
        for name, x, w, keywords in (
            ("same-1d", (2, 3, 9), (4, 3, 4), {"padding": "same"}),
            ("causal", (1, 2, 10), (2, 2, 3), {"padding": "causal", "dilation": 3}),
            ("wider-than-input", (1, 2, 3), (2, 2, 5), {"padding": ((11, 8),)}),
            ("both-ends-at-once", (1, 2, 3, 2), (2, 2, 7, 5), {"padding": (3, 2)}),
            ("size-1", (2, 2, 1, 5), (3, 2, 3, 3), {"padding": (4, 1)}),
            ("size-1-everywhere", (1, 1, 1, 1, 1), (2, 1, 3, 2, 3), {"padding": (1, 2, 1)}),
            ("crop-then-border", (1, 2, 9, 8), (2, 2, 3, 3), {"padding": ((-2, 4), (3, -5))}),
            ("crop-to-one-then-border", (1, 2, 5), (2, 2, 3), {"padding": ((-4, 7),)}),
            (
                "stride-dilation",
                (1, 3, 8, 9),
                (2, 3, 3, 3),
                {"padding": ((3, 1), (2, 5)), "stride": (2, 3), "dilation": 2},
            ),
            ("groups-last", (2, 5, 6, 4), (6, 2, 3, 3), {"padding": 2, "groups": 2, "layout": "channels_last"}),
            ("depthwise", (1, 5, 7, 19), (5, 1, 3, 5), {"padding": (1, 2), "groups": 5}),
            ("volume", (1, 2, 3, 4, 5), (3, 2, 3, 3, 3), {"padding": ((2, 1), (1, 2), (4, 0))}),
            ("image", (1, 12, 35), (1, 1, 5, 5), {"padding": "same"}),
        ):
            yield Case(f"{mode}-{name}", x, w, {**keywords, "padding_mode": mode})


def _transposed() -> Iterator[Case]:
    for name, x, w, keywords in (
        ("plain", (2, 3, 5), (3, 4, 3), {}),
        ("stride-2", (2, 3, 5, 6), (3, 4, 3, 3), {"stride": 2}),
        ("stride-2-kernel-4", (1, 4, 5, 7), (4, 3, 4, 4), {"stride": 2, "padding": 1}),
        ("stride-above-kernel", (1, 2, 5, 4), (2, 3, 2, 1), {"stride": (5, 3)}),
        ("stride-above-kernel-3d", (1, 2, 3, 2, 3), (2, 2, 1, 2, 1), {"stride": (2, 3, 3)}),
        ("output-padding", (2, 3, 4, 5), (3, 2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
        ("output-padding-dilation", (1, 2, 4), (2, 3, 3), {"stride": 2, "dilation": 5, "output_padding": 4}),
        ("output-padding-pointwise", (1, 2, 4), (2, 3, 1), {"stride": 4, "output_padding": 3}),
        ("padding-pairs", (1, 3, 6, 7), (3, 2, 4, 5), {"stride": (1, 3), "padding": ((2, 0), (1, 4))}),
        ("padding-beyond-kernel", (1, 2, 9), (2, 2, 2), {"padding": 3, "stride": 2}),
        ("one-element-left", (1, 2, 3), (2, 2, 3), {"padding": 2}),
        ("dilation", (1, 2, 6, 5), (2, 3, 3, 2), {"dilation": (3, 2), "stride": (2, 3)}),
        ("dilation-equals-stride", (2, 2, 7), (2, 3, 3), {"dilation": 3, "stride": 3, "padding": 1}),
        ("same", (1, 3, 5, 6), (3, 2, 3, 4), {"padding": "same", "stride": (2, 3)}),
        ("same-stride-above-kernel", (1, 2, 5), (2, 2, 2), {"padding": "same", "stride": 5}),
        ("groups", (2, 6, 5, 4), (6, 3, 3, 3), {"groups": 2, "stride": 2}),
        ("depthwise", (1, 5, 6, 7), (5, 1, 4, 4), {"groups": 5, "stride": 2, "padding": 1}),
        ("depthwise-multiplier", (1, 3, 6), (3, 4, 5), {"groups": 3, "stride": 3}),
        ("channels-last", (2, 4, 5, 3), (3, 7, 3, 3), {"layout": "channels_last", "stride": 2}),
        ("unbatched", (3, 6), (3, 2, 4), {"stride": 2}),
        ("volume", (1, 3, 3, 4, 5), (3, 2, 3, 3, 3), {"stride": 2, "padding": 1, "output_padding": (1, 0, 1)}),
        ("batch-0", (0, 3, 5), (3, 2, 3), {}),
        ("channels-0", (2, 0, 5), (0, 2, 3), {"stride": 2}),
        ("one-pixel", (1, 9, 1, 1), (9, 5, 4, 4), {}),
        ("wide", (1, 2, 3, 65), (2, 3, 3, 3), {"stride": 2, "padding": 1}),
    ):
        yield Case(f"transposed-{name}", x, w, keywords, "transposed", transposed=True)


_LAYERS = (
    # name, input channels, output channels, spatial size, kernel, keywords
    ("resnet-stem", 3, 64, 224, 7, {"stride": 2, "padding": 3}),
    ("resnet-3x3", 64, 64, 56, 3, {"padding": 1}),
    ("resnet-3x3-down", 128, 256, 28, 3, {"padding": 1, "stride": 2}),
    ("resnet-3x3-deep", 512, 512, 7, 3, {"padding": 1}),
    ("resnet-shortcut", 256, 512, 56, 1, {"stride": 2}),
    ("vgg-3x3", 128, 128, 112, 3, {"padding": 1}),
    ("inception-1x7", 192, 192, 17, (1, 7), {"padding": (0, 3)}),
    ("mobilenet-depthwise", 144, 144, 56, 3, {"padding": 1, "groups": 144}),
    ("convnext-depthwise", 96, 96, 56, 7, {"padding": 3, "groups": 96}),
    ("resnext-groups", 128, 128, 56, 3, {"padding": 1, "groups": 32}),
    ("deeplab-atrous", 256, 256, 28, 3, {"padding": 6, "dilation": 6}),
)


def network(shrink: int = 1) -> tuple[Case, ...]:
    """Return layers of well-known networks, with sizes and channels divided by `shrink`."""
    cases = []
    for name, channels, outputs, size, kernel, keywords in _LAYERS:
        groups = keywords.get("groups", 1)
        divided = max(groups // shrink, 1)
        inner, outer = (max(-(-n // shrink // divided), 1) * divided for n in (channels, outputs))
        side = max(-(-size // shrink), 5)
        kernels = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        cases.append(
            Case(
                name,
                (1, inner, side, side),
                (outer, inner // divided, *kernels),
                {**keywords, "groups": divided},
                "network",
            )
        )
    wave, video = -(-16_000 // shrink), max(16 // shrink, 4)
    width = max(64 // shrink, 3)
    cases += [
        Case("wavenet-causal", (1, width, wave), (width, width, 2), {"padding": "causal", "dilation": 16}, "network"),
        Case("c3d-3x3x3", (1, width, video, 4 * video, 4 * video), (width, width, 3, 3, 3), {"padding": 1}, "network"),
        Case(
            "unet-up", (1, 2 * width, 2 * video, 2 * video), (2 * width, width, 2, 2), {"stride": 2}, "network", transposed=True
        ),
        Case(
            "dcgan-up", (1, 4 * width, video, video), (4 * width, 2 * width, 4, 4), {"stride": 2, "padding": 1},
            "network", transposed=True,
        ),
    ]  # fmt: skip
    return tuple(cases)


def random_cases(count: int, seed: int) -> tuple[Case, ...]:
    """Return `count` small problems of every kind, one in four transposed; the same for the same seed."""
    rng = random.Random(seed)
    return tuple(_random(rng, f"random-{seed}-{i}") for i in range(count))


def _random(rng: random.Random, name: str) -> Case:
    rank, transposed = rng.choice((1, 1, 2, 2, 2, 3)), rng.random() < 0.25
    largest = {1: 40, 2: 14, 3: 7}[rank]
    groups = rng.choice((1, 1, 1, 2, 3, 5))
    per_in, per_out = rng.choice(((1, 1), (1, 2), (2, 1), (3, 4), (5, 2), (1, 3)))
    stride = [rng.choice((1, 1, 2, 3, 5)) for _ in range(rank)]
    dilation = [rng.choice((1, 1, 1, 2, 3)) for _ in range(rank)]
    kernel = [rng.randint(1, 7 if rank == 1 else 4) for _ in range(rank)]
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    low = 0 if transposed else -3
    pairs, spatial = [], []
    for s, e in zip(stride, extent, strict=True):
        p, q = rng.randint(low, e), rng.randint(low, e)
        if transposed:
            # The unpadded output is (n - 1)*s + e long, and at least one element must be left of it.
            least = max(1, -(-(p + q + 1 - e) // s) + 1)
        else:
            least = max(1, e - p - q, 1 - min(p, 0) - min(q, 0))
        pairs.append((p, q))
        spatial.append(rng.randint(least, least + largest))
    keywords: dict[str, Any] = {
        "stride": tuple(stride), "padding": tuple(pairs), "dilation": tuple(dilation), "groups": groups,
        "layout": rng.choice(("channels_first", "channels_first", "channels_last")),
    }  # fmt: skip
    if transposed:
        keywords["output_padding"] = tuple(rng.randrange(max(s, d)) for s, d in zip(stride, dilation, strict=True))
        w = (groups * per_in, per_out, *kernel)
    else:
        keywords["padding_mode"] = rng.choice(("zeros", *MODES))
        w = (groups * per_out, per_in, *kernel)
    channels = groups * per_in
    array = (channels, *spatial) if keywords["layout"] == "channels_first" else (*spatial, channels)
    x = array if rng.random() < 0.2 else (rng.randint(1, 3), *array)
    return Case(name, x, w, keywords, "random", transposed)


CASES = (
    *_degenerate(), *_sizes(), *_geometries(), *_borders(), *_transposed(), *network(8), *random_cases(300, 2026)
)  # fmt: skip
"""Every problem that a test runs."""

_NAMED = {case.name: case for case in CASES}


def by_name(*names: str) -> tuple[Case, ...]:
    """Return the named cases of `CASES`."""
    return tuple(_NAMED[name] for name in names)


EVERY_DTYPE = by_name(
    "batch-0", "channels-0", "pointwise-2d", "kernel-is-input-3d", "stride-beyond-input", "width-33-1d", "width-17-2d",
    "width-31-image", "channels-7-to-9", "channels-9-to-7-last", "many-channels", "long-kernel", "dilation-and-stride",
    "asymmetric-3d", "crop-and-pad", "groups-3-odd", "depthwise", "depthwise-multiplier-last", "unbatched-2d-last",
    "nearest-wider-than-input", "symmetric-stride-dilation", "mirror-volume", "wrap-groups-last", "zeros-crop-then-border",
    "transposed-stride-2-kernel-4", "transposed-output-padding-dilation", "transposed-depthwise", "transposed-channels-last",
)  # fmt: skip
"""The smaller set that runs in every dtype."""

AWKWARD = by_name(
    "width-33-1d", "width-17-2d", "width-31-image", "channels-9-to-7-last", "groups-2", "depthwise", "depthwise-last",
    "mirror-stride-dilation", "wrap-volume", "unbatched-2d-last", "pointwise-2d", "transposed-stride-2", "transposed-same",
)  # fmt: skip
"""The smaller set that runs on memory that is not contiguous, aligned, writable or native."""

THREADED = (
    Case("threads-dense", (3, 16, 24, 40), (24, 16, 3, 3), {"padding": 1}),
    Case("threads-signal", (1, 1, 70_000), (1, 1, 9), {"padding": 4, "padding_mode": "mirror"}),
    Case("threads-depthwise", (2, 24, 40, 33), (24, 1, 3, 3), {"groups": 24, "padding": 1}),
    Case("threads-last", (2, 30, 31, 9), (17, 9, 3, 3), {"layout": "channels_last", "stride": 2}),
    Case("threads-image", (1, 300, 301), (1, 1, 5, 5), {"padding": "same", "padding_mode": "symmetric"}),
    Case("threads-volume", (1, 4, 10, 12, 14), (6, 4, 3, 3, 3), {"padding": 1}),
    Case("threads-transposed", (2, 16, 15, 17), (16, 12, 4, 4), {"stride": 2, "padding": 1}, transposed=True),
)
"""Problems with work enough for several threads, whose long sums would show another order of addition."""
