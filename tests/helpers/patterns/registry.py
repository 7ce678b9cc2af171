"""What a pattern is, the list of them, and the few ways in which training leaves zeros."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from patterns.open import OPEN

__all__ = ["DEATHS", "PATTERNS", "Net", "Pattern", "chain", "dead", "image", "kill", "pattern", "trained", "unread"]

Made = tuple[nn.Module, Any]
M = TypeVar("M", bound=nn.Module)

# Rows and biases at zero; rows at zero but a bias left (the channel is a constant); the readers' columns at zero.
DEATHS = ("zero", "constant", "unread")


@dataclass(frozen=True)
class Pattern:
    """One small network with zeros as training leaves them.

    Args:
        name: unique.
        make: builds the network and its example inputs (a tensor, a tuple or a dict).
        smaller: True where it must get smaller, None where keeping everything with a reason is as good.
        dtype: precision of the network and the inputs.
        first: False for a further variety of a pattern that stands in the list before it.
    """

    name: str
    make: Callable[[], Made]
    smaller: bool | None
    dtype: torch.dtype
    first: bool = True

    @property
    def open(self) -> str:
        """Why it does not come out as it should yet; "" where it does."""
        return next((reason for reason, names in OPEN.items() if self.name in names), "")

    def build(self) -> Made:
        """The network in evaluation mode, and its example inputs; the same ones at every call."""
        with torch.random.fork_rng(devices=[]), _precision(self.dtype):
            torch.manual_seed(zlib.crc32(self.name.encode()))
            model, inputs = self.make()
        return model.eval(), inputs


PATTERNS: list[Pattern] = []


def pattern(
    *,
    smaller: bool | None = True,
    each: Mapping[str, Any] | Sequence[str] = (),
    kept: Sequence[str] = (),
    dtype: torch.dtype = torch.float64,
) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """Register a function that builds a network.

    Args:
        smaller: what to expect of it, see `Pattern`.
        each: one pattern for each of these, which the function gets as its argument.
        kept: those of `each` that need not get smaller.
        dtype: see `Pattern`.
    """

    def register(function: Callable[..., Made]) -> Callable[..., Made]:
        name = function.__name__
        varieties = dict(each) if isinstance(each, Mapping) else {variety: variety for variety in each}
        unknown = {*kept} - {*varieties}
        if unknown:
            raise ValueError(f"{name}: {sorted(unknown)} are none of its varieties {sorted(varieties)}")
        if not varieties:
            PATTERNS.append(Pattern(name, function, smaller, dtype))
        for variety, value in varieties.items():
            expected = None if variety in kept else smaller
            made = _bound(function, value if isinstance(value, tuple) else (value,))
            PATTERNS.append(Pattern(f"{name}-{variety}", made, expected, dtype, variety == next(iter(varieties))))
        return function

    return register


class Net(nn.Module):
    """A network of one expression: `Net(lambda s, x: s.b(s.a(x)), a=..., b=...)`.

    Modules and parameters become its own, tensors its buffers; everything is `trained`.
    """

    def __init__(self, function: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            if isinstance(member, Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)
        trained(self)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def chain(*layers: nn.Module) -> nn.Sequential:
    """`nn.Sequential`, `trained`."""
    return trained(nn.Sequential(*layers))


def trained(model: M) -> M:
    """Scales, shifts, biases and statistics as after training: fresh ones (1, 0, 0 and 1) would prove little."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            leaf = name.rpartition(".")[2]
            if tensor.dim() == 1 and leaf == "running_var":
                tensor.uniform_(0.5, 2)
            elif tensor.dim() == 1 and leaf == "weight":
                tensor.uniform_(0.5, 1.5)
            elif tensor.dim() == 1 and ("bias" in leaf or leaf == "running_mean"):
                tensor.normal_(0, 0.4)
    return model


def kill(layer: Any, rows: Sequence[int], bias: float = 0.0) -> None:
    """Set output channels of a layer or a norm to zero, and their biases near `bias`."""
    rows = list(rows)  # a tuple would index several axes
    with torch.no_grad():
        if layer.weight is not None:
            layer.weight.movedim(1 if getattr(layer, "transposed", False) else 0, 0)[rows] = 0
        if getattr(layer, "bias", None) is not None:
            layer.bias[rows] = bias * (1 + torch.arange(len(rows)).to(layer.bias) / 4)


def unread(layer: Any, columns: Sequence[int]) -> None:
    """Set what a layer reads from input channels to zero."""
    with torch.no_grad():
        layer.weight.movedim(0 if getattr(layer, "transposed", False) else 1, 0)[list(columns)] = 0


def dead(writer: Any, reader: Any, rows: Sequence[int], how: str) -> None:
    """Let channels die in one of the ways of `DEATHS`."""
    if how == "unread":
        unread(reader, rows)
    else:
        kill(writer, rows, 0.5 if how == "constant" else 0.0)


def image(channels: int = 3, size: int = 6, batch: int = 2) -> Tensor:
    """A batch of square images of noise."""
    return torch.randn(batch, channels, size, size)


def _bound(function: Callable[..., Made], values: tuple[Any, ...]) -> Callable[[], Made]:
    return lambda: function(*values)


@contextmanager
def _precision(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
