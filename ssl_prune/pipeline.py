"""`slim`: zeros at once where they are asked for, the cut, and the way back to the dense network.

This is the one place that knows what sets zeros, what cuts, and what was cut while it trained; none of these knows it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from ssl_prune.graph import ChannelGraph
from ssl_prune.oneshot.threshold import apply_threshold, check_threshold
from ssl_prune.shrinking.history import lineage_of
from ssl_prune.slimming.compiler import compiled
from ssl_prune.slimming.outcome.changes import ThresholdChange
from ssl_prune.slimming.outcome.result import SlimResult
from ssl_prune.slimming.settings import Settings
from ssl_prune.slimming.subject import Subject
from ssl_prune.slimming.tracing import traced
from ssl_prune.utils.inputs import Inputs, check_example, in_precision_of

__all__ = ["slim"]


def slim(
    model: nn.Module,
    example_inputs: Inputs,
    exact: bool = True,
    tolerance: float = 1e-4,
    *,
    columns: bool | Literal["measured"] = False,
    threshold: float = 0.0,
    round_to: int | Literal["measured"] = 1,
    budget: Mapping[str, float] | None = None,
    data: Iterable[Any] | None = None,
    graph: ChannelGraph | None = None,
) -> SlimResult:
    r"""Cut a network with zeros down to what its outputs need, and prove that they stay the same.

    The slim network g satisfies max|f(x) − g(x)| ≤ tolerance · max|f(x)| in evaluation mode, on the example, on fresh
    inputs, on another batch size and, where the network takes one, another input size; and every value on the way is
    what survives of the dense one. What cannot be removed exactly is kept, and the report names it and the reason.

    Networks that `torch.export` refuses (Python branches on data, custom autograd functions) are traced by
    torch-pruning's autograd graph; then constants are not folded, and the proof is made of more trials.

    Args:
        model: the network; it is left as it was.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        exact: refuse what the proof does not confirm. With False the cut is returned whatever its error is, and the
            report states the error.
        tolerance: allowed relative difference of the outputs.
        columns: what becomes of all-zero columns of a layer's matrix (dead input features, dead kernel positions).
            False: kernels are cropped where that never costs time, other zeros stay. True: layers are written with the
            fewest weights, if need be as a dense product over gathered columns (`ColumnConv`). "measured": each layer
            in the form that is fastest on this machine, with these threads, at the example's sizes and batch.
        threshold: for a network that is only nearly zero: first set to zero, on a copy, every channel of which all
            weights, biases, scales and shifts are within it, and every one that no larger weight reads. That changes the
            outputs, by what `report.threshold` states; the proof and `report.max_error` are against the network after it.
        round_to: keep the fewest dead channels with which every width is a multiple of this number, or "measured": keep
            a few where the layers at the shapes of the example are measurably faster with them; pass a batch of the
            size that counts.
        budget: for a network that has no zeros yet: first set to zero, on a copy, the channels that matter least, so many
            that a size is met: {"macs": 0.5}, {"params": 100_000}, {"latency": 0.5} or several; see `Limits`. That
            changes the outputs, by what `report.budget` states, with the size that was reached. What the proof keeps is
            known only then: other channels go in its place. `ssl_prune.callbacks.Budget` does it while training.
        data: with `budget`, batches (input, class) to tell what matters, a few hundred samples; without them norms have
            to do, which is much worse. For another loss than cross-entropy see `apply_budget`.
        graph: the channel graph, if it was traced before on inputs of the same shapes.

    Returns:
        The slim network (ordinary modules, same class), the plan and the report.

    Raises:
        GraphError: neither tracer can follow the network on this example, or `graph` is that of another network.
        SlimError: the network's own outputs are not finite, or no longer after the threshold.
        TypeError: `model` is no network, or `example_inputs` is not a tensor, tuple or dict.
        ValueError: `tolerance`, `columns`, `threshold`, `round_to` or `budget` is none of what is listed above, the
            budget is met already or out of reach, or the example is empty.

    Warns:
        UserWarning: the size that `budget` states is missed, with the reason.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with torch.no_grad():
        ...     _ = net[0].weight[:5].zero_(), net[0].bias[:5].zero_()
        >>> slim(net, torch.randn(1, 4)).model[0]
        Linear(in_features=4, out_features=3, bias=True)
    """
    settings = Settings(exact, tolerance, columns, round_to)
    check_threshold(threshold)
    check_example(model, example_inputs)
    example_inputs = in_precision_of(model, example_inputs)
    if data is not None and budget is None:
        raise ValueError('data: only used to choose for a budget; give one too, for example budget={"macs": 0.5}')
    asked = {"threshold": threshold, "round_to": round_to != 1, "columns": columns, "budget": budget}
    subject = traced(model, example_inputs, graph, [name for name, wanted in asked.items() if wanted])
    subject, small = _small_to_zero(subject, threshold)
    result = compiled(subject, settings) if budget is None else _to_size(subject, settings, budget, data)
    result = replace(result, report=replace(result.report, threshold=small))
    return _from_the_dense(result, model, example_inputs)


def _small_to_zero(subject: Subject, threshold: float) -> tuple[Subject, ThresholdChange | None]:
    if not threshold:
        return subject, None
    model, change = apply_threshold(subject.graph, subject.model, subject.inputs, threshold)
    return replace(subject, model=model), change


def _to_size(
    subject: Subject, settings: Settings, budget: Mapping[str, float], data: Iterable[Any] | None
) -> SlimResult:
    # Not at import, for the time that it takes to load: a network that has zeros needs none of it. No circle is hidden here,
    # as nothing of a budget imports this module.
    from ssl_prune.budget.limits import Limits
    from ssl_prune.oneshot.budget import cut_to_size

    width = settings.round_to if isinstance(settings.round_to, int) else 1
    return cut_to_size(
        subject,
        Limits.of(budget),
        data,
        lambda model: compiled(replace(subject, model=model), settings),
        round_to=width,
    )


def _from_the_dense(result: SlimResult, model: nn.Module, inputs: Inputs) -> SlimResult:
    """For a network that was cut while it trained, plan and report from the dense one on."""
    lineage = lineage_of(model)
    if lineage is None:
        return result
    plan, report = lineage.complete(result.plan, result.report, inputs)
    return replace(result, plan=plan, report=report)
