"""The scalar mathematics of penalties: pure functions of tensors, safe at 0/0, NaN in gives NaN out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

NEWTON_STEPS = 12  # enough for metrics that span ten decades inside one group


def soft_threshold(w: Tensor, step: float | Tensor) -> Tensor:
    """Shrink every entry towards zero by `step`, the proximal map of ``step * ||w||_1``.

    ``soft(w, s) = sign(w) * max(|w| - s, 0) = w - clamp(w, -s, s)``

    Args:
        w: any shape.
        step: ``s >= 0``, a number or a tensor that broadcasts to ``w``.

    Returns:
        A new tensor shaped as ``w``; exactly 0 where ``|w| <= s``, NaN where ``w`` is NaN.

    Example:
        >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0)
        tensor([-2.,  0.,  1.])

    Source: Parikh and Boyd, Proximal Algorithms (2014), section 6.5.2.
    """
    if isinstance(step, Tensor):
        return w - torch.clamp(w, -step, step)
    return torch.nn.functional.softshrink(w, step)


def shrink_factor(norms: Tensor, step: float | Tensor) -> Tensor:
    """The factor that the proximal map of ``step * ||w_g||_2`` multiplies each group by.

    ``factor_g = max(1 - s_g / ||w_g||_2, 0)``; 0 for a group of norm 0, NaN for a group of norm NaN.

    Args:
        norms: ``(G,)`` group norms.
        step: ``s >= 0``, a number or ``(G,)``.

    Returns:
        ``(G,)`` factors in [0, 1].

    Example:
        >>> shrink_factor(torch.tensor([0.0, 0.5, 4.0]), 1.0)
        tensor([0.0000, 0.0000, 0.7500])

    Source: Yuan and Lin, Model selection and estimation in regression with grouped variables (2006), equation 2.4.
    """
    tiny = torch.finfo(norms.dtype).tiny
    return (1 - step / norms.clamp_min(tiny)).clamp_min_(0)


def metric_norms(
    weights: Sequence[Tensor],
    metric: Sequence[Tensor],
    strength: Tensor,
    total: Callable[[Sequence[Tensor]], Tensor],
    expand: Callable[[Tensor], Sequence[Tensor]],
    scratch: Sequence[list[Tensor]] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Solve for the group norms of the group lasso's proximal map in a diagonal metric.

    ``argmin_z 1/2 (z - w)' H (z - w) + s ||z||_2`` has ``z_i = w_i theta / (theta + s / h_i)`` with ``theta = ||z||``,
    the root of ``||(w_i / (theta + s / h_i))_i||_2 = 1``; and ``z = 0`` if and only if ``||H w||_2 <= s``.
    The reciprocal of the left side is concave and increasing in theta, so Newton from a lower bound rises to the root
    without overshooting.

    Args:
        weights: one tensor a member.
        metric: diagonal entries ``h >= 0``, one tensor a member that broadcasts to its weights.
        strength: ``(G,)`` the ``s_g > 0``.
        total: adds up each group's entries of tensors shaped as the members, giving ``(G,)``.
        expand: lays ``(G,)`` over the members; anything in entries outside of the groups.
        scratch: three lists of tensors shaped as the weights, to be overwritten; made anew if not given, which on a CPU
            costs more than the arithmetic.

    Returns:
        theta ``(G,)``, 0 for groups that the map sets to zero; and the offsets ``s / h``, one tensor a member (the first
        list of `scratch`).

    Example:
        >>> w, h = [torch.tensor([3.0, 4.0])], [torch.tensor([0.5, 0.5])]
        >>> add, lay = lambda t: t[0].sum().view(1), lambda v: [v]
        >>> metric_norms(w, h, torch.tensor([1.0]), add, lay)[0]      # ||w|| - s / h = 5 - 2
        tensor([3.])

    Source: Deleu and Bengio, Structured sparsity inducing adaptive optimizers for deep learning (2021), section 3;
    Yun, Lozano and Yang, Adaptive proximal gradient methods for structured neural networks (2021). The root finding is
    that of Conn, Gould and Toint, Trust-Region Methods (2000), section 7.3.
    """
    offsets, shifted, ratios = scratch or [[torch.empty_like(w) for w in weights] for _ in range(3)]
    # An infinite metric means "do not move": as the largest finite number it gives offset 0 without 0 * inf = NaN.
    for t, h, w in zip(shifted, metric, weights, strict=True):
        torch.mul(h.clamp(max=torch.finfo(h.dtype).max), w, out=t).square_()
    pull = total(shifted).sqrt_()
    dead = pull <= strength
    for c, s, h in zip(offsets, expand(strength), metric, strict=True):
        torch.div(s.expand_as(c), h, out=c)
    # By convexity of 1/x the root is at least ||w|| less the mean offset; with a uniform metric it is the root itself.
    for t, w in zip(shifted, weights, strict=True):
        torch.square(w, out=t)
    tiny = torch.finfo(pull.dtype).tiny
    norm2 = total(shifted).clamp_min_(tiny)
    torch._foreach_mul_(shifted, offsets)
    mean = total(shifted) / norm2
    theta = torch.where(dead, 0, (norm2.sqrt() - mean).clamp_min(0))
    done = dead | (norm2 <= tiny)  # weights whose squares vanish stay as they are: what pulls at them is smaller still
    # Offsets below the rounding error of ||w|| do not move the root, but their squares would be zero.
    floors = expand(norm2.sqrt() * torch.finfo(pull.dtype).eps)
    for _ in range(NEWTON_STEPS):
        for t, r, c, f, now, w in zip(shifted, ratios, offsets, floors, expand(theta), weights, strict=True):
            torch.maximum(c, f, out=t).add_(now)
            torch.div(w, t, out=r).square_()
        length2 = total(ratios)
        torch._foreach_div_(ratios, shifted)
        move = length2 * (length2.sqrt() - 1) / total(ratios)
        theta = torch.where(done, theta, (theta + move).clamp_min_(0))
        # Looking at the result costs nothing on a CPU and a synchronisation elsewhere. Convergence is quadratic: after
        # a relative move of 1e-4 the error is 1e-8.
        if theta.device.type == "cpu" and not bool((~done & (move.abs() > 1e-4 * theta)).any()):
            break
    return theta, offsets
