"""The picture of a budget: what is due beside what is left, the strength below, and the accuracy."""

import os
from collections.abc import Sequence

from ssl_prune.report.plots import INK, PALE, SOLID, _matplotlib, _tidy
from ssl_prune.utils.files import replacing

__all__ = ["plot_budget"]


def plot_budget(
    history: Sequence[tuple[int, float, float, float]],
    path: str | os.PathLike[str],
    *,
    kind: str = "macs",
    metric: Sequence[tuple[int, float]] = (),
    metric_name: str = "accuracy",
) -> None:
    """Draw a run under a budget over its optimizer steps.

    Args:
        history: of each decision (step, share that is due, share that is left, strength).
        path: the picture; its suffix chooses the format. Its folder must exist.
        kind: what the shares are of.
        metric: (step, value) of what the run was validated with.
        metric_name: its name.

    Raises:
        ValueError: there is no decision to draw.
        ImportError: matplotlib is not installed.
    """
    if not history:
        raise ValueError("plot_budget: got no decision to draw; the run has not come to its window")
    figure_class, canvas_class = _matplotlib()
    rows = 3 if metric else 2
    figure = figure_class(figsize=(7.0, 1.2 + 1.7 * rows), layout="constrained", dpi=200)
    canvas_class(figure)
    axes = figure.subplots(rows, 1, sharex=True, height_ratios=[2, *[1] * (rows - 1)])
    steps, due, left, strength = zip(*history, strict=True)
    axes[0].plot(steps, due, color=INK, linestyle=":", label="due")
    axes[0].plot(steps, left, color=SOLID, label="left")
    axes[0].fill_between(steps, left, color=PALE, alpha=0.6)
    axes[0].set_ylabel(f"share of the {kind}")
    axes[0].set_ylim(0, 1.05)
    axes[0].legend(frameon=False, loc="lower left")
    axes[1].plot(steps, strength, color=SOLID)
    axes[1].set_ylabel("strength")
    axes[1].set_ylim(bottom=0)
    if metric:
        axes[2].plot([step for step, _ in metric], [value for _, value in metric], color=SOLID, marker=".")
        axes[2].set_ylabel(metric_name)
    for each in axes:
        _tidy(each)
        each.set_xlabel("")
    axes[-1].set_xlabel("optimizer step", fontsize=8, color=INK)
    with replacing(path) as part:
        figure.savefig(part, format=str(path).rpartition(".")[2])
