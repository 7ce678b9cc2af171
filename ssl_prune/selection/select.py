"""Masks of a stated sparsity from scores: in each layer as many as a distribution says, or one threshold over all."""

from collections.abc import Mapping
from zlib import crc32

import torch
from torch import Tensor

from ssl_prune.selection.counts import kept, rounded
from ssl_prune.selection.densities import densities
from ssl_prune.selection.largest import largest

__all__ = ["select"]


def select(
    scores: Mapping[str, Tensor],
    distribution: str | Mapping[str, float],
    sparsity: float | None = None,
    *,
    fixed: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """What stays of each layer: the largest scores, exactly as many as are stated.

    Args:
        scores: name -> scores shaped as the weight.
        distribution: "uniform", "er", "erk"; "global", one threshold over all layers; or name -> density.
        sparsity: share of all these entries that goes, in [0, 1); none where densities are stated.
        fixed: name -> density of layers that are stated beside it; the others have the sparsity among themselves.
        seed: decides between equal scores.

    Returns:
        name -> bool, shaped as the scores, True where an entry stays.

    Raises:
        ValueError: what `densities` refuses, or a score that is NaN.

    Example:
        >>> scores = {"a": torch.arange(4.0), "b": torch.arange(4.0) + 2}
        >>> {name: mask.int().tolist() for name, mask in select(scores, "global", 0.5).items()}
        {'a': [0, 0, 0, 1], 'b': [0, 1, 1, 1]}

    Source: for one threshold over all, Lee et al., SNIP (2019), equation 5.
    """
    for name, score in scores.items():
        if bool(score.isnan().any()):
            raise ValueError(
                f"{name}: {int(score.isnan().sum())} of its scores are NaN, so nothing can be chosen by them"
            )
    over_all = distribution == "global"
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    shares = densities("uniform" if over_all else distribution, shapes, sparsity, fixed=fixed)
    sizes = {name: score.numel() for name, score in scores.items()}
    stated = set(fixed or ()) if sparsity is not None else set(scores)
    free = [name for name in scores if name not in stated]
    total = 0 if sparsity is None else kept(sparsity, sum(sizes[name] for name in free))
    counts = rounded({name: shares[name] for name in scores if name in stated}, sizes)
    if not over_all:
        counts |= rounded({name: shares[name] for name in free}, sizes, total)
    found = {name: largest(scores[name], count, seed ^ crc32(name.encode())) for name, count in counts.items()}
    if over_all and free:
        joined = torch.cat([scores[name].detach().reshape(-1) for name in free])
        pieces = torch.split(largest(joined, total, seed), [sizes[name] for name in free])
        found |= {name: piece.view(shapes[name]) for name, piece in zip(free, pieces, strict=True)}
    return {name: found[name] for name in scores}
