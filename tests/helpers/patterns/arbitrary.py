"""Networks of operators drawn at random, over images or over sequences, with zeros drawn at random."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from patterns.parts import Attend, Gate, Mix, Packed, Recurrent, Scale, Tied, UpAndDown, spoil

__all__ = ["Choose", "Recipe", "network"]

# Of two values a and b of the same width, where a move takes two; `axis` is that of the channels, `n` is 0 or 1.
MOVES: dict[str, Callable[[Any, Any, int, int], Tensor]] = {
    "add": lambda a, b, axis, n: a + b,
    "add in place": lambda a, b, axis, n: a.clone().add_(b),
    "multiply": lambda a, b, axis, n: a * b.sigmoid(),
    "product": lambda a, b, axis, n: a * b,
    "maximum": lambda a, b, axis, n: torch.maximum(a, b),
    "choose": lambda a, b, axis, n: torch.where(a > 0, a, b),
    "stack": lambda a, b, axis, n: torch.stack([a, b]).sum(0),
    "add mean": lambda a, b, axis, n: a + b.mean(-1 if axis == 1 else 1, keepdim=True),
    "cat": lambda a, b, axis, n: torch.cat([a, b], axis),
    "half": lambda a, b, axis, n: a.chunk(2, axis)[n],
    "swap": lambda a, b, axis, n: torch.cat(a.chunk(2, axis)[::-1], axis),
    "split": lambda a, b, axis, n: a.split([1, a.shape[axis] - 1], axis)[n],
    "every second": lambda a, b, axis, n: a[:, n::2] if axis == 1 else a[..., n::2],
    "glu": lambda a, b, axis, n: F.glu(a, axis),
    "flip": lambda a, b, axis, n: a.flip(axis),
    "roll": lambda a, b, axis, n: a.roll(1, axis),
    "rectify a slice": lambda a, b, axis, n: _rectified(a.clone(), axis, n),
}
HALVED = ("half", "glu", "every second")
EVEN = (*HALVED, "swap")
OF_TWO = ("add", "add in place", "multiply", "product", "maximum", "choose", "stack", "add mean", "cat")
IMAGE = (
    "conv", "conv", "conv", "conv", "grouped", "depthwise", "normed", "tied", "norm", "norm", "norm", "activation",
    "activation", "scale", "gate", "mix", "attend", "pool", "shuffle", "upsample", "pixels", "again",
)  # fmt: skip
SEQUENCE = (
    "linear", "linear", "linear", "linear", "normed", "tied", "norm", "norm", "activation", "activation", "scale",
    "recurrent", "attention", "mix", "again",
)  # fmt: skip
Choose = Callable[[Sequence[Any]], Any]  # one of several, at random


def _rectified(a: Tensor, axis: int, n: int) -> Tensor:
    F.relu(a.chunk(2, axis)[-n], inplace=True)
    return a


class Recipe(nn.Module):
    """Steps over a growing list of values; each names the values it reads.

    Args:
        dims: axes of positions of an image, 0 for sequences, which have their channels last.
        start: makes the first value of the input.
        steps: (kind, sources, 0 or 1).
        layers: modules of the steps that have one.
        ends: values that are outputs.
        heads: read the values of `ends`, each one or all of them joined.
        flat: positions and channels are read together by the one head.
    """

    def __init__(self, dims: int, start: nn.Module, steps: Any, layers: Any, ends: Any, heads: Any, flat: bool) -> None:
        super().__init__()
        self.dims, self.start, self.steps, self.ends, self.flat = dims, start, steps, ends, flat
        self.layers, self.heads = nn.ModuleDict(layers), nn.ModuleList(heads)
        self.axis = 1 if dims else -1

    def forward(self, x: Tensor) -> Any:
        values = [self.start(x)]
        for i, (kind, sources, detail) in enumerate(self.steps):
            first, second = values[sources[0]], values[sources[-1]]
            if kind in MOVES:
                values.append(MOVES[kind](first, second, self.axis, detail))
            else:
                values.append(self.layers[str(sources[-1] if kind == "again" else i)](first))
        ends = [values[i] for i in self.ends]
        if len(self.heads) > 1:
            return {f"head {i}": head(end) for i, (head, end) in enumerate(zip(self.heads, ends, strict=True))}
        joined = torch.cat(ends, self.axis)
        return self.heads[0](joined.permute(0, *range(joined.dim() - 1, 0, -1)).flatten(1) if self.flat else joined)

    def extra_repr(self) -> str:
        """Steps and ends, to build a network again that failed."""
        return "\n".join([f"{i + 1}: {step}" for i, step in enumerate(self.steps)] + [f"ends {self.ends}"])


def network(choose: Choose) -> tuple[Recipe, Callable[[int], Tensor]]:
    """A network in evaluation mode, in double precision, and what draws a batch of inputs."""
    torch.manual_seed(choose(range(1000)))
    dims = choose([0, 0, 1, 2, 2, 2, 3])
    tokens = not dims and choose([False, True])
    size = 4 if dims == 3 else 6
    start: nn.Module = nn.Embedding(5, choose([2, 3, 4])) if tokens else nn.Identity()
    widths = [start.embedding_dim if isinstance(start, nn.Embedding) else 2]
    steps: list[tuple[str, list[int], int]] = []
    layers: dict[str, nn.Module] = {}
    made: dict[int, tuple[int, int]] = {}  # step -> widths of its layer
    for i in range(choose(range(2, 9))):
        kind = choose(choose([tuple(MOVES), IMAGE if dims else SEQUENCE, IMAGE if dims else SEQUENCE]))
        source, detail = choose(range(max(0, i - 2), i + 1)), choose([0, 1])
        width, sources = widths[source], [source]
        if (kind in EVEN and width % 2) or (kind == "split" and width < 2):
            kind = "flip"
        if kind == "again":
            earlier = [j for j, (read, _) in made.items() if read == width]
            kind = "again" if earlier else "activation"
            sources += [choose(earlier)] if earlier else []
        if kind == "again":
            width = made[sources[1]][1]
        elif kind in MOVES:
            if kind in OF_TWO:
                sources.append(choose([j for j, other in enumerate(widths) if other == width]))
            width = width // 2 if kind in HALVED else 2 * width if kind == "cat" else width
            width = (1, width - 1)[detail] if kind == "split" else width
        else:
            others = [m for m in layers.values() if type(m) in (nn.Linear, *CONV)]  # none that computes its weight
            layers[str(i)], width = _layer(choose, kind, dims, width, others)
            made[i] = widths[source], width
        steps.append((kind, sources, detail))
        widths.append(width)
    read = {source for kind, sources, _ in steps for source in sources[: 1 if kind == "again" else 2]}
    ends = [i for i in range(1, len(widths)) if i not in read]  # nothing is computed in vain
    form = choose(["joined", "joined", "each", "flat"])
    total = sum(widths[i] for i in ends)
    if form == "flat":
        heads = [nn.Linear(total * size ** max(dims, 1), 3)]
    else:
        heads = [_pointwise(dims, n, 3) for n in ([widths[i] for i in ends] if form == "each" else [total])]
    net = Recipe(dims, start, steps, layers, ends, heads, form == "flat").double().eval()
    spoil(net, choose([0.3, 0.6, 0.9]), choose([False, True]), keep=net.heads)

    def inputs(batch: int) -> Tensor:
        shape = (batch, 2, *[size] * dims) if dims else (batch, size, 2)
        return torch.randint(5, (batch, size)) if tokens else torch.randn(shape).double()

    return net, inputs


CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _pointwise(dims: int, width: int, out: int) -> nn.Module:
    return CONV[dims - 1](width, out, 1) if dims else nn.Linear(width, out)


def _layer(choose: Choose, kind: str, dims: int, width: int, others: list[Any]) -> tuple[nn.Module, int]:
    """A module that keeps the positions, and its number of output channels."""
    out = choose(range(1, 7))
    if kind in ("conv", "linear"):
        if not dims:
            return nn.Linear(width, out, bias=choose([True, False])), out
        kernel, mode = choose([1, 3]), choose(["zeros", "zeros", "circular"])
        conv = CONV[dims - 1](width, out, kernel, padding=kernel // 2, bias=choose([True, False]), padding_mode=mode)
        return conv, out
    if kind == "normed":
        return weight_norm(_pointwise(dims, width, out)), out
    if kind == "tied":
        same = [m for m in others if m.weight.shape[1] == width and getattr(m, "groups", 1) == 1]
        turned = [m for m in others if m.weight.shape[0] == width and isinstance(m, nn.Linear)]
        if not same and not turned:
            return _pointwise(dims, width, out), out
        other = choose([*same, *turned])
        transposed = other not in same
        return Tied(other, transposed), other.weight.shape[1 if transposed else 0]
    if kind in ("grouped", "depthwise"):
        groups = width if kind == "depthwise" else 2 if width % 2 == 0 else 1
        out = groups * choose([1, 2, 3] if kind == "grouped" else [1, 2])
        return CONV[dims - 1](width, out, 3, padding=1, groups=groups), out
    if kind == "norm" and dims:
        batch, instance = ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1], (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 1])  # fmt: skip
        return choose([batch, batch, lambda n: instance(n, affine=True), lambda n: nn.GroupNorm(1, n)])(width), width
    if kind == "norm":
        return choose([nn.LayerNorm, nn.RMSNorm])(width), width
    if kind == "activation":
        slopes = [] if not dims else [nn.PReLU(width)]
        return choose([nn.ReLU(), nn.SiLU(), nn.Sigmoid(), nn.Hardtanh(), *slopes]), width
    if kind == "recurrent":
        both = choose([False, True])
        return Recurrent(choose([nn.LSTM, nn.GRU])(width, out, batch_first=True, bidirectional=both)), out * (1 + both)
    if kind == "attention":
        return Packed(width, choose([n for n in (1, 2, 3) if width % n == 0])), width
    if kind == "attend":
        return Attend(width, choose([1, 2]), choose([1, 2, 3])), width
    if kind == "pool":
        pools = [(nn.MaxPool1d, nn.AvgPool1d), (nn.MaxPool2d, nn.AvgPool2d), (nn.MaxPool3d, nn.AvgPool3d)][dims - 1]
        return choose(pools)(3, 1, 1), width
    if kind == "shuffle" and dims == 2:
        return nn.ChannelShuffle(2 if width % 2 == 0 else 1), width
    if kind in ("upsample", "pixels") and dims == 2:
        return UpAndDown(width, out, pixels=kind == "pixels"), out
    if kind == "mix":
        return Mix(width, out, choose([nn.Identity, nn.LayerNorm, nn.RMSNorm]), last=not dims), width
    if kind == "scale":
        return Scale(width, dims), width
    return Gate(width, choose([1, 2, 3])) if dims else nn.Tanh(), width
