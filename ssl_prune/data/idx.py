"""The IDX format of MNIST."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["read_idx"]


def read_idx(path: Path, dims: int) -> Tensor:
    """Read an IDX file of bytes, plain or gzipped.

    The file is two zero bytes, the type (8 is unsigned byte), the number of dimensions, each dimension as a big-endian
    32-bit integer, and the values.

    Args:
        path: the file; it is unzipped if its name ends in `.gz`.
        dims: expected dimensions: 3 for images ``(N, H, W)``, 1 for labels ``(N,)``.

    Returns:
        uint8 tensor.

    Raises:
        ValueError: the file is damaged or of another kind.

    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits, section "file formats".
    """
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unzipped ({error}). Delete it and fetch it again.") from error
    magic = bytes((0, 0, 8, dims))
    if raw[:4] != magic:
        raise ValueError(
            f"{path} starts with {raw[:4].hex() or 'nothing'}, expected {magic.hex()}: "
            f"it is not an IDX file of bytes with {dims} dimension(s). Fetch it again."
        )
    header = 4 + 4 * dims
    shape = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, header, 4)]
    expected = header + math.prod(shape)
    if len(raw) != expected:
        raise ValueError(
            f"{path} has {len(raw)} bytes, expected {expected} for the shape {tuple(shape)}. "
            "Delete it and fetch it again."
        )
    values = np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
    return torch.from_numpy(values.copy())  # a copy, because a tensor over read-only bytes is not allowed
