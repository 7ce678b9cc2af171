"""A vision transformer for small images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Attention", "TransformerBlock", "ViT"]


class Attention(nn.Module):
    """Multi-head self-attention from one projection to queries, keys and values.

    The code reads its sizes from what it is given, so that heads can be cut.

    Args:
        width: channels of the tokens.
        heads: number of heads; it divides the width.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"Attention: {heads} heads do not divide a width of {width}.")
        self.head_dim = width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(N, L, width)`` to the same shape."""
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.proj(out.transpose(1, 2).reshape(n, length, -1))
        return result


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each normalised before and added to its input.

    Args:
        width: channels of the tokens.
        heads: number of heads.
        hidden: hidden units of the perceptron.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, 2021, equations 2 and 3.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(N, L, width)`` to the same shape."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class ViT(nn.Module):
    """Patches as tokens, a learned position each, transformer blocks, the mean of the tokens and one linear layer.

    Args:
        patch: height and width of a patch in pixels; it divides the image.
        width: channels of the tokens.
        depth: blocks.
        heads: heads of each.
        hidden: hidden units of each perceptron; None: four times the width.
        in_channels: channels of the image.
        image_size: height and width of the image in pixels.
        num_classes: outputs of the last layer.

    Raises:
        ValueError: the patch does not divide the image, or the heads the width, or there are no hidden units.

    Example:
        >>> ViT(width=32, depth=1, heads=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source: Dosovitskiy et al., 2021, with a mean in place of the class token.
    """

    def __init__(
        self,
        patch: int = 4,
        width: int = 96,
        depth: int = 4,
        heads: int = 6,
        hidden: int | None = None,
        in_channels: int = 3,
        image_size: int = 32,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if patch < 1 or image_size % patch:
            raise ValueError(f"ViT: patches of {patch} pixels do not divide an image of {image_size}.")
        hidden = 4 * width if hidden is None else hidden
        if hidden < 1:
            raise ValueError(f"ViT: hidden is {hidden}, expected at least 1, or None for four times the width.")
        self.input_shape = (in_channels, image_size, image_size)
        self.embed = nn.Conv2d(in_channels, width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (image_size // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, hidden) for _ in range(depth)))
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.fc(self.norm(self.blocks(x)).mean(1))
        return logits
