"""The diagonal metric that an optimizer's step is taken in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, Optimizer, RMSprop

from ssl_prune.groups.flat import launching_costs

SUPPORTED = (SGD, Adam, RMSprop, Adagrad)  # AdamW is an Adam


def check_supported(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose metric is not known.

    Raises:
        TypeError: it is none of SGD, Adam, AdamW, RMSprop, Adagrad.
    """
    if not isinstance(optimizer, (*SUPPORTED, torch.optim.AdamW)):
        raise TypeError(
            f"preconditioned=True knows SGD, Adam, AdamW, RMSprop and Adagrad, got {type(optimizer).__name__}; "
            "leave it at False"
        )


@torch.no_grad()
def diagonal(optimizer: Optimizer, settings: dict[str, Any], param: nn.Parameter, dtype: torch.dtype) -> Tensor:
    """The diagonal ``H`` with which the optimizer's steps are ``w - H^-1 (mean of recent gradients)``.

    Adam, AdamW: ``(sqrt(v / (1 - beta2^t)) + eps) / lr``, ``v`` its running maximum under amsgrad;
    RMSprop: ``(sqrt(v) + eps) / lr``, ``v`` less the squared mean if centered;
    Adagrad: ``(sqrt(sum) + eps) (1 + (t - 1) lr_decay) / lr``; SGD: ``1 / lr``. A momentum ``m`` that adds gradients up
    instead of averaging them (SGD's, RMSprop's) makes the steps ``(1 - dampening) / (1 - m)`` times longer, and ``H``
    as much smaller. A parameter never stepped yet has ``1 / lr``.

    Args:
        optimizer: the optimizer after a step.
        settings: the entry of ``optimizer.param_groups`` that `param` lives in.
        param: the parameter.
        dtype: of the result.

    Returns:
        A tensor that broadcasts to ``param``; infinite where ``lr`` is 0.

    Example:
        >>> w = nn.Parameter(torch.ones(2))
        >>> sgd = SGD([w], lr=0.5)
        >>> diagonal(sgd, sgd.param_groups[0], w, torch.float32)
        tensor(2.)

    Source: Deleu and Bengio, Structured sparsity inducing adaptive optimizers for deep learning (2021), section 3.
    """
    lr = torch.as_tensor(settings["lr"], dtype=dtype, device=param.device)
    state = optimizer.state.get(param, {})
    if not state and not isinstance(optimizer, SGD):
        return lr.reciprocal()
    momentum = settings.get("momentum", 0.0)  # Adam and Adagrad have none of this kind
    if momentum:
        lr = lr * (1 - settings.get("dampening", 0.0)) / (1 - momentum)
    if isinstance(optimizer, SGD):
        return lr.reciprocal()
    if isinstance(optimizer, Adam):
        second = state["max_exp_avg_sq"] if settings["amsgrad"] else state["exp_avg_sq"]
        corrected = torch.as_tensor(1 - settings["betas"][1] ** state["step"], dtype=dtype, device=param.device)
        return _root(second, dtype).div_(corrected.sqrt()).add_(settings["eps"]).div_(lr)
    if isinstance(optimizer, RMSprop):
        second = state["square_avg"].to(dtype)
        if settings["centered"]:
            second = second - state["grad_avg"].to(dtype).square()
    else:
        second = state["sum"].to(dtype)
        lr = lr / (1 + (state["step"].to(param.device) - 1) * settings["lr_decay"])
    return _root(second, dtype).add_(settings["eps"]).div_(lr)


@torch.no_grad()
def diagonals(
    optimizer: Optimizer, settings: Sequence[dict[str, Any]], params: Sequence[nn.Parameter], dtype: torch.dtype
) -> list[Tensor]:
    """The `diagonal` of each parameter; of Adam's on an accelerator all at once, since each alone is a launch or five."""
    states = [optimizer.state.get(param, {}) for param in params]
    at_once = (
        isinstance(optimizer, Adam)
        and launching_costs(params[0].device)
        and all(chosen is settings[0] for chosen in settings)
        and not isinstance(settings[0]["lr"], Tensor)
        and all(state and state["step"].device.type == "cpu" for state in states)
        and all(param.dtype == dtype for param in params)
    )
    if not at_once:
        return [diagonal(optimizer, own, param, dtype) for own, param in zip(settings, params, strict=True)]
    chosen, name = settings[0], "max_exp_avg_sq" if settings[0]["amsgrad"] else "exp_avg_sq"
    roots = torch._foreach_sqrt([state[name] for state in states])
    torch._foreach_div_(roots, [math.sqrt(1 - chosen["betas"][1] ** float(state["step"])) for state in states])
    torch._foreach_add_(roots, chosen["eps"])
    torch._foreach_div_(roots, float(chosen["lr"]))
    return list(roots)


def _root(second: Tensor, dtype: torch.dtype) -> Tensor:
    # One new tensor, to go on with in place: on a CPU every other one would cost more than the arithmetic.
    return second.to(dtype).sqrt()
