"""Random changes of a batch of images, drawn from torch's generator."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["crop_and_flip"]


def crop_and_flip(images: Tensor, padding: int = 4) -> Tensor:
    """Shift every image by up to `padding` pixels, zeros entering at the border, and mirror every second one.

    Args:
        images: ``(B, C, H, W)``, any dtype.
        padding: zeros added on each side before the crop, in pixels.

    Returns:
        A new tensor of the same shape and dtype; each image has a shift and a side of its own.

    Example:
        >>> crop_and_flip(torch.ones(8, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([8, 3, 32, 32])

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    # Every crop of every image as a view; indexing copies only the chosen ones.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    # Drawn on the processor, so that the changes are the same on every device.
    top, left = torch.randint(2 * padding + 1, (2, count)).to(images.device)
    chosen = crops[torch.arange(count, device=images.device), :, top, left]
    mirrored = (torch.rand(count) < 0.5).to(images.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), chosen.flip(3), chosen)
