"""A recurrent layer whose layers and directions have widths of their own, as a cut may leave them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["UnevenRecurrent", "is_uneven", "uneven"]

_KINDS: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN}


class UnevenRecurrent(nn.Module):
    r"""An LSTM, GRU or RNN of which every layer and direction has its own number of hidden units.

    It is called like `nn.LSTM` and returns as much. States of all cells are one tensor, as wide as the widest cell; what
    a narrower one does not use of it is zero.

    Args:
        mode: "LSTM", "GRU", "RNN_TANH" or "RNN_RELU", as `nn.RNNBase.mode`.
        input_size: features of the input.
        sizes: for each layer the hidden units of each direction.
        bias, batch_first, dropout: as in `nn.LSTM`.

    Raises:
        TypeError: at the call, a `PackedSequence`.
        ValueError: at the call, states that are not as wide as the widest cell.

    Example:
        >>> layer = UnevenRecurrent("LSTM", 4, [[3, 5], [2, 2]], batch_first=True)
        >>> output, (hidden, cell) = layer(torch.randn(7, 6, 4))
        >>> output.shape, hidden.shape
        (torch.Size([7, 6, 4]), torch.Size([4, 7, 5]))
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        sizes: Sequence[Sequence[int]],
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.mode, self.batch_first, self.dropout = mode, batch_first, dropout
        self.directions = len(sizes[0])
        options: dict[str, Any] = {"nonlinearity": mode[4:].lower()} if mode.startswith("RNN") else {}
        widths = [input_size, *(sum(layer) for layer in sizes)]
        self.cells = nn.ModuleList(
            _KINDS[mode](width, size, bias=bias, batch_first=batch_first, **options)
            for width, layer in zip(widths, sizes, strict=False)
            for size in layer
        )

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """``(N, T, I)`` or ``(T, N, I)`` as `batch_first` says, or ``(T, I)``, and initial states; to outputs and last states."""
        if not isinstance(input, Tensor):
            raise TypeError(
                f"UnevenRecurrent: got a {type(input).__name__}, expected a tensor: it takes no packed sequence"
            )
        cells: list[Any] = list(self.cells)
        starts = [] if hx is None else list(hx) if isinstance(hx, tuple) else [hx]
        widest: int = max(cell.hidden_size for cell in cells)
        for start in starts:
            if start.shape[-1] != widest:
                raise ValueError(f"UnevenRecurrent: got states of width {start.shape[-1]}, expected {widest}")
        time = 1 if self.batch_first and input.dim() == 3 else 0
        states: list[tuple[Tensor, ...]] = []
        while len(states) < len(self.cells):
            outputs = []
            for backward in range(self.directions):
                cell = cells[len(states)]
                own = tuple(s[len(states) : len(states) + 1, ..., : cell.hidden_size].contiguous() for s in starts)
                start = (own if len(own) > 1 else own[0]) if own else None
                output, last = cell(input.flip(time) if backward else input, start)
                outputs.append(output.flip(time) if backward else output)
                last = last if isinstance(last, tuple) else (last,)
                states.append(tuple(F.pad(s, (0, widest - s.shape[-1])) for s in last))
            input = torch.cat(outputs, -1) if self.directions > 1 else outputs[0]
            if len(states) < len(self.cells):
                input = F.dropout(input, self.dropout, self.training)
        joined = tuple(torch.cat(each) for each in zip(*states, strict=True))
        return input, joined if len(joined) > 1 else joined[0]

    def flatten_parameters(self) -> None:
        """As in `nn.LSTM`: lay the weights out for the GPU."""
        for cell in self.cells:
            cell.flatten_parameters()  # type: ignore[operator]

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"{self.mode}, batch_first={self.batch_first}, dropout={self.dropout}"


def is_uneven(module: nn.Module, keep: dict[str, dict[int, list[int]]]) -> bool:
    """A cut leaves a recurrent module layers or directions of several widths.

    Args:
        module: the dense module.
        keep: own tensor -> axis -> positions that stay.
    """
    if not isinstance(module, nn.RNNBase) or module._forward_hooks or module._forward_pre_hooks:
        return False  # hooks would be lost
    ends = [name.removeprefix("weight_hh") for name, _ in module.named_parameters() if name.startswith("weight_hh")]
    return len({len(keep.get(f"weight_hh{end}", {}).get(1, range(module.hidden_size))) for end in ends}) > 1


def uneven(module: Any) -> UnevenRecurrent:
    """The form of an `nn.LSTM`, `nn.GRU` or `nn.RNN` whose parameters were cut to several widths, with its parameters."""
    sides = ("", "_reverse") if module.bidirectional else ("",)
    ends = [[f"l{layer}{side}" for side in sides] for layer in range(module.num_layers)]
    sizes = [[getattr(module, f"weight_hh_{end}").shape[1] for end in layer] for layer in ends]
    width = module.weight_ih_l0.shape[1]
    new = UnevenRecurrent(module.mode, width, sizes, module.bias, module.batch_first, module.dropout)
    for cell, end in zip(new.cells, (end for layer in ends for end in layer), strict=True):
        for name, _ in list(cell.named_parameters()):
            setattr(cell, name, getattr(module, name.replace("l0", end)))
    return new
