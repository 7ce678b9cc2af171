"""A threshold for networks that are only nearly zero: whole structures within it of zero become exactly zero."""

import math
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.graph import ChannelGraph, ParameterAxis
from ssl_prune.slimming.outcome.changes import ThresholdChange
from ssl_prune.slimming.proof.outputs import Expected, verify
from ssl_prune.slimming.work import is_large
from ssl_prune.utils.checks import check_number
from ssl_prune.utils.copies import copied
from ssl_prune.utils.inputs import Inputs

__all__ = ["apply_threshold", "check_threshold"]


def check_threshold(threshold: float) -> None:
    """Refuse what is no threshold.

    Args:
        threshold: in the units of the weights.

    Raises:
        ValueError: not a finite number of at least 0.
    """
    check_number(threshold, "threshold", low=0)


def apply_threshold(
    graph: ChannelGraph, model: nn.Module, inputs: Inputs, threshold: float
) -> tuple[nn.Module, ThresholdChange]:
    r"""A copy of `model` in which every nearly zero channel is exactly zero.

    A channel is set to zero as a whole or not at all: its writing side where every row, bias, normalisation scale and
    shift that makes it is within the threshold, max|w| ≤ t; its reading side where every column that reads it is.
    Running statistics do not count: without scale and shift they reach nothing. Single small entries of channels that
    are not small stay as they are.

    Args:
        graph: the channel graph of `model`.
        model: the network; it is left as it was.
        inputs: the example; outputs are compared on it and on fresh inputs.
        threshold: t ≥ 0, in the units of the weights.

    Returns:
        The copy, and what was changed in it.

    Raises:
        ValueError: not a threshold.
        SlimError: the outputs are not finite after it.

    Example:
        >>> from ssl_prune.graph import trace
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(1, 4)
        >>> with torch.no_grad():
        ...     _ = net[0].weight[:5].fill_(1e-5), net[0].bias[:5].zero_()
        >>> apply_threshold(trace(net, x), net, x, 1e-4)[1].units
        {'0': 5}
    """
    check_threshold(threshold)
    changed = copied(model)
    parameters = dict(changed.named_parameters(remove_duplicate=False))
    before = {name: _zeros(parameter) for name, parameter in changed.named_parameters()}
    writing = [axis for axis in graph.axes if axis.role != "reader"]
    reading = [axis for axis in graph.axes if axis.role == "reader"]
    touched = torch.zeros(graph.num_units, dtype=torch.bool)
    # Both sides are decided before anything is set, and what is set was within the threshold: order does not matter.
    for axes, units in [(axes, _within(axes, parameters, graph.num_units, threshold)) for axes in (writing, reading)]:
        touched |= _clear(axes, parameters, units)
    entries: Counter[str] = Counter()
    for name, parameter in changed.named_parameters():
        entries[name.rpartition(".")[0]] += _zeros(parameter) - before[name]
    expected = Expected(model, inputs, is_large(graph.program))
    difference = verify(model, changed, inputs, math.inf, expected).max_error
    if not math.isfinite(difference):
        raise SlimError(
            f"threshold={threshold:g}: the network's outputs are not finite, or not zero where they were, after its "
            "small channels are set to zero; take a smaller threshold"
        )
    layers = Counter(graph.unit_layer[unit] for unit in touched.nonzero().flatten().tolist())
    return changed, ThresholdChange(float(threshold), dict(layers), {k: n for k, n in entries.items() if n}, difference)


def _zeros(parameter: Tensor) -> int:
    return int((parameter == 0).sum())


def _within(
    axes: Iterable[ParameterAxis], parameters: dict[str, nn.Parameter], num_units: int, threshold: float
) -> Tensor:
    """``(U,)`` units that some axis holds, and of which every entry is within the threshold; NaN is not."""
    held, within = torch.zeros(num_units, dtype=torch.bool), torch.ones(num_units, dtype=torch.bool)
    for axis in axes:
        sizes = _by_position(parameters[axis.name], axis).abs()
        small = (sizes.amax(1).double() <= threshold).cpu() if sizes.shape[1] else torch.ones(len(sizes)).bool()
        within[axis.units[(axis.units >= 0) & ~small]] = False
        held[axis.units[axis.units >= 0]] = True
    return held & within


def _clear(axes: Iterable[ParameterAxis], parameters: dict[str, nn.Parameter], units: Tensor) -> Tensor:
    """Set the entries of `units` to zero; ``(U,)`` those of which some entry was not zero."""
    changed = torch.zeros_like(units)
    for axis in axes:
        rows = torch.cat([units, torch.zeros(1, dtype=torch.bool)])[axis.units]  # unit -1 is never cleared
        zero = (_by_position(parameters[axis.name], axis) == 0).all(1).cpu()
        changed[axis.units[rows & ~zero]] = True
        view = parameters[axis.name].detach().movedim(axis.axis, 0)
        view[rows.nonzero().flatten().to(view.device)] = 0
    return changed


def _by_position(parameter: Tensor, axis: ParameterAxis) -> Tensor:
    """(size of the axis, entries at each position)."""
    return parameter.detach().movedim(axis.axis, 0).unsqueeze(-1).flatten(1)
