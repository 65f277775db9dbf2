"""The picture of `gpuconv bench`: one bar a case, from 1 to the ratio on a logarithmic scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuconv.benchmark import Report

__all__ = ["draw"]

_PAPER, _INK, _GREY, _LINE = (250, 249, 246), (28, 30, 34), (112, 116, 122), (222, 219, 212)
_AHEAD, _BEHIND, _WRONG = (46, 125, 110), (196, 98, 62), (170, 30, 40)
_MARGIN, _LABELS, _BARS, _FIGURES = 40, 300, 620, 190
_ROW, _GROUP, _HEAD, _FOOT = 28, 44, 104, 66
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def draw(report: Report) -> Any:
    """Return a Pillow image of the report's ratios."""
    from PIL import Image, ImageDraw, ImageFont

    rows = [row for row in report.rows if row.ratio is not None]
    groups = list(dict.fromkeys(row.group for row in rows))
    height = _HEAD + len(groups) * _GROUP + len(rows) * _ROW + _FOOT
    # Drawn at twice the size and reduced, so that edges are smooth on any screen.
    scale = 2
    sheet = Image.new("RGB", (scale * (2 * _MARGIN + _LABELS + _BARS + _FIGURES), scale * height), _PAPER)
    pen = ImageDraw.Draw(sheet)

    def font(size: int) -> Any:
        return ImageFont.load_default(scale * size)

    def text(x: float, y: float, words: str, colour: Any, size: int, anchor: str = "lm") -> None:
        pen.text((scale * x, scale * y), words, colour, font(size), anchor=anchor)

    def box(x0: float, y0: float, x1: float, y1: float, colour: Any, radius: float = 0) -> None:
        corners = (scale * x0, scale * y0, scale * x1, scale * y1)
        pen.rounded_rectangle(corners, scale * radius, colour)

    ratios = [row.ratio for row in rows if row.ratio is not None]
    low, high = min([0.5, *ratios]) / 1.1, max([2.0, *ratios]) * 1.1
    left = _MARGIN + _LABELS

    def place(ratio: float) -> float:
        return left + _BARS * math.log(ratio / low) / math.log(high / low)

    text(_MARGIN, 34, "gpuconv beside the fastest other library", _INK, 24)
    text(_MARGIN, 64, report.title, _GREY, 13)
    bottom = height - _FOOT + 8
    for tick in _TICKS:
        if low <= tick <= high:
            x = place(tick)
            box(x - 0.5, _HEAD - 12, x + 0.5, bottom, _LINE)
            text(x, bottom + 14, f"{tick:g}x", _GREY, 13, "mm")
    y, group = float(_HEAD), ""
    for row in rows:
        ratio = row.ratio or 1.0
        if row.group != group:
            group = row.group
            text(_MARGIN, y + 28, group, _INK, 16)
            y += _GROUP
        middle = y + _ROW / 2
        colour = _WRONG if row.wrong else _AHEAD if ratio >= 1 else _BEHIND
        start, end = sorted((place(1.0), place(ratio)))
        text(left - 16, middle, row.name, _INK, 14, "rm")
        box(start, middle - 8, max(end, start + 1), middle + 8, colour, 2)
        peer = min((name for name in row.seconds if name != "gpuconv"), key=lambda name: row.seconds[name])
        note = "  wrong result" if row.wrong else f"  {peer} {row.seconds[peer] * 1e3:.3g} ms"
        figure = f"{ratio:.2f}x"
        text(left + _BARS + 16, middle, figure, colour, 14)
        pen.text(
            (scale * (left + _BARS + 16) + pen.textlength(figure, font(14)), scale * middle),
            note, _GREY, font(13), anchor="lm",
        )  # fmt: skip
        y += _ROW
    x = place(1.0)
    box(x - 1, _HEAD - 12, x + 1, bottom, _INK)
    text(_MARGIN, height - 20, f"Right of 1x gpuconv is faster; logarithmic scale. {report.caution}", _GREY, 13)
    return sheet.resize((sheet.width // scale, sheet.height // scale), Image.Resampling.LANCZOS)
