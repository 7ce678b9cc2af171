"""Multiply-accumulates of a layer, from what the graph knows of it."""

import torch
from torch import Tensor

from ssl_prune.graph import Reader

__all__ = ["each_pair", "product", "product_units"]


def each_pair(reader: Reader, weight: torch.Size) -> int:
    """Multiply-accumulates for each pair of a channel read and one written: positions times kernel entries.

    Args:
        reader: a layer with a weight.
        weight: the weight's shape, its first two axes the channels.
    """
    output = reader.node.meta["val"]
    if isinstance(output, (tuple, list)) or "cell" in str(reader.node.target):  # recurrent: hidden units come last
        first = output if isinstance(output, Tensor) else output[0]
        positions = first.numel() // first.shape[-1]
    elif reader.in_axis == 0:  # a transposed convolution multiplies at every input position
        assert reader.source is not None
        positions = reader.source.meta["val"].numel() // len(reader.read)
    else:
        positions = output.numel() // len(reader.written)
    return positions * (weight.numel() // (weight[0] * weight[1]))


def product(reader: Reader) -> float:
    """Multiply-accumulates for each channel of a product of two values, as of attention."""
    node = reader.node
    values = [n.meta["val"] for n in node.all_input_nodes[:2]]
    packet, aten = getattr(node.target, "overloadpacket", None), torch.ops.aten
    if packet is aten.scaled_dot_product_attention:
        total = values[0].numel() * values[1].shape[-2]
    elif packet in (aten.matmul, aten.bmm, aten.mm):
        total = node.meta["val"].numel() * values[0].shape[-1]
    else:
        return 0.0
    return float(total / max(1, len(reader.written)))


def product_units(reader: Reader) -> Tensor:
    """The units whose channels such a product has."""
    return torch.where(reader.written >= 0, reader.written, reader.read)
