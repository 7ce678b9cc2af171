"""Global response normalisation in code of the user's own: which modules are one, and over which axes."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import fx

from ssl_prune.graph.export.module_kinds import kind_of
from ssl_prune.graph.export.program import Program, module_of

__all__ = ["ResponseNormalisation", "response_norms"]

aten = torch.ops.aten

_VIEWS = (aten.view, aten.reshape, aten._unsafe_view, aten.unsqueeze)


class ResponseNormalisation(NamedTuple):
    """x + γ x n + β with n = g / (mean of g over the channels + ε) and g the norm of x over positions.

    Args:
        node: the mean.
        module: its name.
        axes: of the positions.
        channel: axis of the channels.
        eps: what is added to the mean.
        scale: own name of γ.
        shift: own name of β.
    """

    node: fx.Node
    module: str
    axes: tuple[int, ...]
    channel: int
    eps: float
    scale: str
    shift: str


def _normalised_by(node: fx.Node) -> tuple[fx.Node, float] | None:
    """What is multiplied by its response, and ε, where the node is the mean over the channels; else None."""
    norm = node.args[0] if node.args else None
    if _packet(node) is not aten.mean or not isinstance(norm, fx.Node) or _packet(norm) is not aten.linalg_vector_norm:
        return None
    x, order, axes, keep = (*norm.args, 2, None, False)[:4] if len(norm.args) < 4 else norm.args[:4]
    if order != 2 or keep is not True or not isinstance(axes, (list, tuple)) or not isinstance(x, fx.Node):
        return None
    if len(node.args) < 3 or node.args[2] is not True or len(node.args[1]) != 1:  # type: ignore[arg-type]
        return None
    safe = next(iter(node.users), None)
    if safe is None or len(node.users) > 1 or _packet(safe) is not aten.add or not isinstance(safe.args[1], float):
        return None
    ratio = next(iter(safe.users), None)
    if ratio is None or len(safe.users) > 1 or _packet(ratio) is not aten.div or ratio.args != (norm, safe):
        return None
    product = next(iter(ratio.users), None)
    if product is None or len(ratio.users) > 1 or _packet(product) is not aten.mul or x not in product.args:
        return None
    return x, safe.args[1]


def response_norms(program: Program) -> Iterator[ResponseNormalisation]:
    """All modules that do nothing else.

    Args:
        program: of the network.
    """
    for node in program.graph.nodes:
        found = _normalised_by(node) if node.op == "call_function" else None
        module = module_of(node)
        if found is None or not module or kind_of(node).startswith("torch.nn."):
            continue
        (x, eps), names = found, _parameters(program, module)
        rank = x.meta["val"].dim()
        axes, channel = (tuple(axis % rank for axis in each) for each in (node.args[0].args[2], node.args[1]))
        if len(names) == 2 and {*axes, *channel} == {*range(1, rank)}:
            yield ResponseNormalisation(node, module, axes, channel[0], eps, names["scale"], names["shift"])


def _parameters(program: Program, module: str) -> dict[str, str]:
    """ "scale" and "shift" -> own name of a parameter that is used once, as such; more where it has others."""
    found: dict[str, str] = {}
    for node in program.graph.nodes:
        owner, _, leaf = str(program.tensors.get(node.name, "")).rpartition(".")
        if node.op != "placeholder" or owner != module:
            continue
        role: Any = leaf
        while len(node.users) == 1:
            before, node = node, next(iter(node.users))
            if _packet(node) not in _VIEWS:
                first = node.args[0] is before
                packet = _packet(node)
                role = "scale" if packet is aten.mul or (packet is aten.addcmul and not first) else "shift"
                break
        found[role if role not in found else leaf] = leaf
    return found if found.keys() == {"scale", "shift"} else {}


def _packet(node: fx.Node) -> Any:
    return getattr(node.target, "overloadpacket", None)
