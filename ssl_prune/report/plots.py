"""Pictures of what a run did to a network."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssl_prune.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_widths"]

PALE, SOLID, INK = "#d5dde8", "#2b5c8a", "#333333"


def plot_widths(
    names: Sequence[str],
    before: Sequence[int],
    after: Sequence[int],
    path: str | os.PathLike[str],
    *,
    macs_share: float | None = None,
    title: str | None = None,
) -> None:
    """Draw the width of each layer before and after, one horizontal bar a layer from the first at the top.

    The dense width is pale, the slim one solid upon it; the numbers stand at the end of the bar.

    Args:
        names: layers, in the order of the network.
        before: filters or neurons of each in the dense network.
        after: the same in the slim one.
        path: the picture; its suffix chooses the format, such as `.png`, `.svg` or `.pdf`. Its folder must exist.
        macs_share: MACs of the slim network as a share of the dense one, for the title.
        title: text before it.

    Raises:
        ValueError: the sequences differ in length or are empty, or a layer has grown.
        ImportError: matplotlib is not installed.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "widths.svg")
        >>> plot_widths(["conv1", "fc"], [20, 10], [5, 10], path, macs_share=0.31)
        >>> os.path.exists(path)
        True
    """
    _check(names, before, after)
    figure_class, canvas_class = _matplotlib()
    count = len(names)
    # Bars get thinner with their number, and names smaller, until they are just legible.
    step = min(0.30, max(0.13, 14 / count))
    size = min(9.0, 0.62 * 72 * step)
    figure = figure_class(figsize=(7.0, count * step + 1.0), layout="constrained", dpi=200)
    canvas_class(figure)
    axes = figure.add_subplot()
    places = range(count)
    axes.barh(places, before, height=0.72, color=PALE, label="dense")
    axes.barh(places, after, height=0.72, color=SOLID, label="slim")
    room = 0.01 * max(*before, 1)
    for place, old, new in zip(places, before, after, strict=True):
        axes.text(max(old, 0) + room, place, f"{new} / {old}", va="center", fontsize=size, color=INK)
    axes.set_yticks(places, names, fontsize=size)
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_xlim(0, max(*before, 1) * 1.14)
    _tidy(axes)
    axes.set_title(_title(title, sum(before), sum(after), macs_share), loc="left", fontsize=10, color=INK, pad=18)
    # In the strip between the title and the first bar, where no bar can be.
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8, borderaxespad=0.1, handlelength=1
    )
    with replacing(path) as part:
        figure.savefig(part)


def _check(names: Sequence[str], before: Sequence[int], after: Sequence[int]) -> None:
    if not len(names) == len(before) == len(after) or not names:
        raise ValueError(
            f"got {len(names)} names, {len(before)} widths before and {len(after)} after; expected as many of each, "
            "at least one."
        )
    for name, old, new in zip(names, before, after, strict=True):
        if not 0 <= new <= old:
            raise ValueError(f"layer {name}: {new} of {old} after slimming, expected 0 to {old}. Is the order swapped?")


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "ssl-prune[plots]".') from error
    return Figure, FigureCanvasAgg  # without pyplot: no window, no global state, the user's backend stays


def _title(title: str | None, before: int, after: int, macs_share: float | None) -> str:
    parts = [f"{after:,} of {before:,} units"]
    if macs_share is not None:
        parts.append(f"{100 * macs_share:.1f} % of the MACs")
    return (f"{title}: " if title else "") + ", ".join(parts)


def _tidy(axes: "Axes") -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.tick_params(axis="x", color=PALE, labelcolor=INK, labelsize=8)
    axes.set_xlabel("filters or neurons", fontsize=8, color=INK)
    axes.grid(axis="x", color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)
