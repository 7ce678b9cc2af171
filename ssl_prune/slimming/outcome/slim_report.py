"""What a cut did: sizes before and after, the proof's error, and what was kept although it is zero, with the reason."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from ssl_prune.costs import Cost
from ssl_prune.slimming.kept import Kept
from ssl_prune.slimming.modules.column_conv import ColumnConv
from ssl_prune.slimming.modules.constant import Blank, Constant
from ssl_prune.slimming.modules.pruned_attention import CutAttention
from ssl_prune.slimming.modules.uneven_rnn import UnevenRecurrent
from ssl_prune.slimming.outcome.changes import BudgetChange, ThresholdChange
from ssl_prune.slimming.proof.outputs import Proof
from ssl_prune.slimming.protocol import Compiler
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.numbers import percent
from ssl_prune.utils.table import table

__all__ = ["Kept", "LayerChange", "SlimReport", "make_report"]


_GONE = nn.Identity()


@dataclass(frozen=True)
class LayerChange:
    """One layer before and after.

    Args:
        name: module name.
        before: shape of its weight in the dense network, ``(out, in, *kernel)``.
        after: shape in the slim network; None where the layer is gone; ``(out, columns)`` where columns are gathered.
        macs: multiply-accumulates of one forward pass, before and after.
        params: parameters, before and after.
    """

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...] | None
    macs: tuple[int, int]
    params: tuple[int, int]


@dataclass(frozen=True)
class SlimReport:
    """The record of a cut; `str()` is a table.

    Args:
        macs: multiply-accumulates of one forward pass of the example, before and after.
        params: parameters, before and after.
        bytes: bytes of parameters and buffers, before and after.
        max_error: largest relative output difference that the proof saw.
        removed: layer -> number of removed units it writes.
        kept: zero units that stay, with the reason.
        layers: every convolution and linear layer.
        refused: why a larger cut was refused by the proof, or None.
        threshold: what a threshold changed before the cut, or None without one; `max_error` does not count that.
        tracer: what found the units: "torch.export", or "torch-pruning" where export refused the network.
        because: why the first tracer refused, or None.
        budget: what a budget changed before the cut, or None without one; `max_error` does not count that either.

    Example:
        >>> import torch
        >>> from ssl_prune import slim
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> with torch.no_grad():
        ...     _ = net[2].weight[:, :5].zero_()
        >>> slim(net, torch.zeros(1, 4)).report.macs
        (48, 18)
    """

    macs: tuple[int, int]
    params: tuple[int, int]
    bytes: tuple[int, int]
    max_error: float
    removed: dict[str, int]
    kept: tuple[Kept, ...]
    layers: tuple[LayerChange, ...]
    refused: str | None = field(default=None)
    threshold: ThresholdChange | None = field(default=None)
    tracer: str = "torch.export"
    because: str | None = None
    budget: BudgetChange | None = None

    def __str__(self) -> str:
        rows = [
            [
                layer.name,
                _shape(layer.before),
                _after(layer),
                *layer.macs,
                percent(layer.macs[1], layer.macs[0]),
                *layer.params,
            ]
            for layer in self.layers
        ]
        total = ["whole network", None, None, *self.macs, percent(self.macs[1], self.macs[0]), *self.params]
        columns = ["layer", "before", "after", "MACs before", "after", "left", "params before", "after"]
        lines = [table(columns, rows, total=total)]
        lines.append(
            f"bytes {self.bytes[0]:,} -> {self.bytes[1]:,}; largest relative output difference {self.max_error:.1e}"
        )
        lines += [str(change) for change in (self.threshold, self.budget) if change is not None]
        lines += [f"kept: {kept.count} zero channels of {kept.layer}: {kept.reason}" for kept in self.kept]
        if self.refused:
            lines.append(f"a larger cut did not pass the proof ({self.refused}); what failed was kept")
        if self.because:
            lines.append(f"traced by {self.tracer}, proven by trials alone, because {self.because}")
        return "\n".join(lines)


def make_report(compiler: Compiler, cut: nn.Module, dead: Tensor, proof: Proof, refused: str | None) -> SlimReport:
    """Compare the two networks and explain every zero unit that stays."""
    subject, graph = compiler.subject, compiler.subject.graph
    before, after = (each.cost(run=not compiler.slow) for each in (subject, replace(subject, model=cut)))
    left = dict(cut.named_modules(remove_duplicate=False))
    gone = {name for name in subject.modules if isinstance(left.get(name, _GONE), (nn.Identity, Blank, Constant))}
    removed = Counter(graph.unit_layer[unit] for unit in dead.nonzero().flatten().tolist())
    return SlimReport(
        (before.macs, after.macs),
        (before.params, after.params),
        (before.bytes, after.bytes),
        proof.max_error,
        dict(removed),
        compiler.explain(dead, gone),
        _layers(compiler.weights, subject, cut, before, after),
        refused,
        tracer="torch.export" if graph.refusal is None else "torch-pruning",
        because=graph.refusal,
    )


def _layers(
    read: Iterable[str], subject: Subject, cut: nn.Module, before: Cost, after: Cost
) -> tuple[LayerChange, ...]:
    modules = dict(cut.named_modules(remove_duplicate=False))
    changes = []
    first = {weight.rpartition(".")[0]: weight for weight in reversed(list(read))}
    for name, weight in reversed(first.items()):
        module = modules.get(name)  # None inside a branch that became a constant
        slim = getattr(module, weight.rpartition(".")[2], None)
        if isinstance(module, (UnevenRecurrent, CutAttention)):  # of several matrices, the first
            slim = next(parameter for parameter in module.parameters() if parameter.dim() > 1)
        after_shape = None
        if isinstance(slim, Tensor):
            after_shape = tuple(slim.shape[:2] if isinstance(module, ColumnConv) else slim.shape)
        macs = (_of(before, name, first, "macs"), _of(after, name, first, "macs"))
        params = (_of(before, name, first, "params"), _of(after, name, first, "params"))
        changes.append(LayerChange(name, tuple(subject.tensors[weight].shape), after_shape, macs, params))
    return tuple(changes)


def _of(total: Cost, name: str, lines: Collection[str], what: str) -> int:
    """The cost of a layer with its parts, those left out that have lines of their own."""
    parts = [part for part in total.layers if part == name or (part.startswith(f"{name}.") and part not in lines)]
    return sum(int(getattr(total.layers[part], what)) for part in parts)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _after(layer: LayerChange) -> str:
    if layer.after is None:
        return "gone"
    return _shape(layer.after) + (" columns" if len(layer.after) < len(layer.before) else "")
