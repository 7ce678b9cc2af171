"""Small modules that random networks are built of, and how zeros are drawn for them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Attend", "Gate", "Mix", "Packed", "Recurrent", "Scale", "Tied", "UpAndDown", "spoil"]


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.up(F.relu(self.down(x.flatten(2).mean(2)))).sigmoid()
        return x * gates.view(*gates.shape, *[1] * (x.dim() - 2))


class Mix(nn.Module):
    """Two layers over the channels as the last axis, with their norm."""

    def __init__(self, width: int, hidden: int, norm: Any, last: bool) -> None:
        super().__init__()
        self.norm, self.last = norm(width), last
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.last else x.movedim(1, -1)
        inner = self.down(F.gelu(self.up(self.norm(inner))))
        return x + (inner if self.last else inner.movedim(-1, 1))


class Attend(nn.Module):
    """Attention over the positions of an image, its projections in one layer."""

    def __init__(self, width: int, heads: int, dim: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * heads * dim), nn.Linear(heads * dim, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2)
        return self.out(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class Packed(nn.Module):
    """`nn.MultiheadAttention` over a sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return result


class Recurrent(nn.Module):
    """What a recurrent layer gives at each step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)[0]
        return result


class Scale(nn.Module):
    """A number for each channel."""

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(width, *[1] * dims))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Tied(nn.Module):
    """A layer with the weight of another one, as it is or transposed, and a bias of its own."""

    def __init__(self, other: Any, transposed: bool) -> None:
        super().__init__()
        self.weight, self.transposed = other.weight, transposed
        self.bias = nn.Parameter(torch.randn(other.weight.shape[1 if transposed else 0]))

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            return F.linear(x, self.weight.t() if self.transposed else self.weight, self.bias)
        conv = (F.conv1d, F.conv2d, F.conv3d)[self.weight.dim() - 3]
        return conv(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class UpAndDown(nn.Module):
    """Twice the size and back, or half of it, through channels that become positions."""

    def __init__(self, width: int, out: int, pixels: bool) -> None:
        super().__init__()
        self.up: Any = nn.PixelUnshuffle(2) if pixels else nn.ConvTranspose2d(width, out, 2, 2)
        self.between = nn.Conv2d(4 * width, 4 * out, 1) if pixels else nn.ReLU()
        self.down: Any = nn.PixelShuffle(2) if pixels else nn.Conv2d(out, out, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(self.between(self.up(x)))
        return result


@torch.no_grad()
def spoil(net: nn.Module, share: float, shifted: bool, keep: nn.Module) -> None:
    """Set random rows, columns and scales to zero, some of them with a shift that stays.

    Args:
        net: the network.
        share: of the rows, and half as many of the columns.
        shifted: biases and shifts stay.
        keep: what is left as it is, with all that it holds.
    """
    kept = set(keep.modules())
    for module in net.modules():
        if module in kept:
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.RNNBase):
            _silence(module, share)
        elif isinstance(module, nn.MultiheadAttention):
            for part in own["in_proj_weight"].chunk(3), own["in_proj_bias"].chunk(3):
                torch.manual_seed(torch.initial_seed() % 1000)
                for rows in part:
                    rows[torch.rand(len(rows)) < share] = 0
        elif isinstance(module, nn.Embedding):
            own["weight"][:, torch.rand(module.embedding_dim) < share] = 0
        elif "original0" in own:  # the norms of the rows
            own["original0"][torch.rand(len(own["original0"])) < share] = 0
        elif "scale" in own:
            own["scale"][torch.rand(len(own["scale"])) < share] = 0
        elif "weight" in own and not hasattr(module, "transposed_tie"):
            _spoil_layer(module, own["weight"], own.get("bias"), share, shifted)


def _spoil_layer(module: nn.Module, weight: Tensor, bias: Tensor | None, share: float, shifted: bool) -> None:
    if weight.dim() == 1:
        weight.uniform_(0.5, 1.5)
        if bias is not None:
            bias.normal_()
    turned = getattr(module, "transposed", False)
    rows, columns = (weight.movedim(1, 0), weight) if turned else (weight, weight.movedim(min(1, weight.dim() - 1), 0))
    dead = torch.rand(len(rows)) < share
    rows[dead] = 0
    if bias is not None and not shifted:
        bias[dead] = 0
    if weight.dim() > 1 and getattr(module, "groups", 1) == 1:
        columns[torch.rand(len(columns)) < share / 2] = 0


def _silence(layer: nn.RNNBase, share: float) -> None:
    """Units of every cell whose rows and biases are all zero, and the columns that read them."""
    dead = torch.rand(layer.hidden_size) < share
    for tensor in layer.parameters():
        tensor.unflatten(0, (-1, layer.hidden_size))[:, dead] = 0
