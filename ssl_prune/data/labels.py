"""The check that every reader makes."""

from torch import Tensor

__all__ = ["check_labels"]


def check_labels(labels: Tensor, images: int, classes: int, source: str) -> None:
    """Raise ValueError unless there is one label an image, each from 0 to `classes - 1`."""
    if len(labels) != images:
        raise ValueError(f"{source}: got {len(labels)} labels for {images} images; the files do not belong together.")
    wrong = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"{source}: {len(wrong)} labels are out of range, the first is {int(labels[first])} of image {first}; "
            f"expected 0 to {classes - 1}. Fetch the file again."
        )
