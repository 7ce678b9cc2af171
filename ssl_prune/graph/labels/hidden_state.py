"""Hidden units of recurrent cells: where they come from."""

from dataclasses import dataclass

from torch import Tensor, fx

__all__ = ["State"]


@dataclass(frozen=True)
class State:
    """Hidden units of one cell of a recurrent layer, over all times.

    A unit that starts at zero stays there where its candidate is always zero.

    Args:
        parameters: names of all parameters of the cell.
        rows: ``(H,)`` row of each unit's candidate in every one of them.
        initial: nodes of the initial states of all cells of the layer, of shape (cells, batch, H) or (cells, H).
        cell: which of the cells it is.
    """

    parameters: tuple[str, ...]
    rows: Tensor
    initial: tuple[fx.Node, ...]
    cell: int

    @property
    def watched(self) -> list[tuple[fx.Node, tuple[int, ...]]]:
        """The initial states with the axes of their channels: cells and units."""
        return [(node, (0, node.meta["val"].dim() - 1)) for node in self.initial]
