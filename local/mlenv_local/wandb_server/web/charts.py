"""Line charts as small SVG drawings with a sentence that says the same. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server.web.markup import Html, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN = 320, 120, 6
Point = tuple[float, float]


def number(value: Any) -> float | None:
    """The value, if it is one that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def short(value: float) -> str:
    """Six digits that matter: two click models differ in the fifth."""
    return f"{value:.6g}"


def chart(name: str, points: Sequence[Point]) -> Html:
    """A figure of one metric over steps; points are in the order of steps."""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    said = (
        f"{name}: {short(values[0])} at step {points[0][0]:.0f}, {short(values[-1])} at step"
        f" {points[-1][0]:.0f}; lowest {short(low)}, highest {short(high)}"
    )
    drawing = tag(
        "svg",
        tag("title", said),
        tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in scaled(points)), class_="line"),
        *(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, class_="dot") for x, y in scaled(points)[-1:]),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=said,
    )
    ends = f"{short(low)} to {short(high)}, steps {points[0][0]:.0f} to {points[-1][0]:.0f}"
    last = tag("span", short(values[-1]), class_="last")
    caption = tag("figcaption", tag("strong", name), " ", last, tag("small", ends))
    return tag("figure", caption, drawing)


def scaled(points: Sequence[Point]) -> list[Point]:
    """Points in the drawing; what does not vary lies in the middle."""
    across = _scale([x for x, _ in points], WIDTH)
    up = _scale([y for _, y in points], HEIGHT)
    return [(x, HEIGHT - y) for x, y in zip(across, up, strict=True)]


def _scale(values: Sequence[float], size: int) -> list[float]:
    low, high = min(values), max(values)
    # Halves, because the difference of two numbers can be more than the largest one.
    span = high / 2 - low / 2
    if not span:
        return [size / 2 for _ in values]
    return [MARGIN + (size - 2 * MARGIN) * ((value / 2 - low / 2) / span) for value in values]
