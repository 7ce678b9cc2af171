"""Constant propagation: what each channel carries where it is read, and whether that depends on the input.

One concrete run gives the values; an exact taint mask beside it says which elements can change with the input. A
convolution's result varies where some varying element meets a non-zero weight, a batch norm's where its scale is not
zero, and so on. What does not vary is a constant, and the concrete run already shows which: constants through batch
norm, activations and additions need no rules of their own.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from ssl_prune.graph.program import Interpretation, Program, module_of
from ssl_prune.graph.rules.movement import MOVEMENT
from ssl_prune.graph.rules.pooling import POOLING
from ssl_prune.inputs import Inputs, as_call

__all__ = ["ChannelValues", "Known", "ValuePass"]

aten = torch.ops.aten

_SAME = {aten.clone, aten.alias, aten.detach, aten._to_copy, aten.contiguous, aten.dropout, aten.lift_fresh_copy}
_CONVOLUTION = {aten.conv1d, aten.conv2d, aten.conv3d}
_TRANSPOSED = {aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d}
_REDUCTIONS = {aten.mean, aten.sum, aten.amax, aten.amin}
_ACROSS = {*POOLING, *_REDUCTIONS}  # over positions, of which another image may have more
_VIEWS = {aten.view, aten._unsafe_view}


@dataclass(frozen=True)
class Known:
    """A value and, of the same shape, which of its elements depend on the input."""

    value: Tensor
    varies: Tensor


@dataclass(frozen=True)
class ChannelValues:
    """What a reader finds in each of its input channels.

    Args:
        varies: (I,) the channel depends on the input somewhere.
        uniform: (I,) it is one and the same number at every position.
        constant: (I,) that number (where `uniform` and not `varies`), float64.
    """

    varies: Tensor
    uniform: Tensor
    constant: Tensor


class ValuePass(Interpretation):
    """Runs the program on the example and keeps, for each node in `watched`, what its channels carry.

    Args:
        program: from the channel graph.
        model: the network with the weights to look at.
        inputs: the example.
        watched: nodes with the axis of their channels; a node may be read along two.
    """

    def __init__(self, program: Program, model: nn.Module, inputs: Inputs, watched: list[tuple[fx.Node, int]]) -> None:
        super().__init__(program)
        self._tensors = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        self._inputs = dict(zip(program.inputs, pytree.tree_leaves(as_call(inputs)), strict=True))
        self._watched: dict[fx.Node, set[int]] = {}
        for node, axis in watched:
            self._watched.setdefault(node, set()).add(axis)
        self.channels: dict[tuple[fx.Node, int], ChannelValues] = {}
        self.constants: dict[fx.Node, Tensor] = {}
        self.output_varies = False
        with torch.no_grad():
            self.run()

    def placeholder(self, node: fx.Node) -> Any:
        """A weight (known) or an input (varies)."""
        if node.name in self._inputs:
            value = self._inputs[node.name]
            result = Known(value, torch.ones_like(value, dtype=torch.bool)) if isinstance(value, Tensor) else value
        else:
            tensor = (
                self._tensors[self.program.tensors[node.name]]
                if node.name in self.program.tensors
                else self.program.constants[node.name]
            )
            result = Known(tensor.detach(), torch.zeros_like(tensor, dtype=torch.bool))
        return self._watch(node, result)

    def operator(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the operator on the values and its taint rule beside it."""
        target: Any = node.target
        if getattr(target, "__name__", "") == "getitem":
            return self._watch(node, args[0][args[1]])
        plain_args, plain_kwargs = pytree.tree_map(lambda a: a.value if isinstance(a, Known) else a, (args, kwargs))
        value = target(*plain_args, **plain_kwargs)
        varies = _varies(node, value, args, kwargs)
        if isinstance(value, (tuple, list)):
            parts = varies if isinstance(varies, (tuple, list)) else [varies] * len(value)
            result: Any = [
                Known(v, t.to(v.device).expand(v.shape)) if isinstance(v, Tensor) else v
                for v, t in zip(value, parts, strict=True)
            ]
        elif isinstance(value, Tensor):
            result = Known(value, varies.to(value.device).expand(value.shape))
        else:
            result = value
        return self._watch(node, result)

    def output(self, node: fx.Node, args: tuple[Any, ...]) -> None:
        """Note whether any output depends on the input."""
        known = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Known)]
        self.output_varies = any(bool(k.varies.any()) for k in known)

    def _watch(self, node: fx.Node, result: Any) -> Any:
        if not isinstance(result, Known):
            return result
        for axis in self._watched.get(node, ()):
            self.channels[node, axis] = _channels(result, axis)
        if module_of(node) and result.value.dim() > 1 and not bool(result.varies.any()):
            constant = _channels(result, 1)
            if bool(constant.uniform.all()):
                self.constants[node] = constant.constant
        return result


def _channels(known: Known, axis: int) -> ChannelValues:
    value = known.value.movedim(axis, 0).flatten(1).double()
    varies = known.varies.movedim(axis, 0).flatten(1).any(1)
    return ChannelValues(varies, (value == value[:, :1]).all(1), value[:, 0])


def _varies(node: fx.Node, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Which elements of the node's result depend on the input."""
    target: Any = node.target
    packet = getattr(target, "overloadpacket", target)
    known = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Known)]
    tags = getattr(target, "tags", ())
    if torch.Tag.nondeterministic_seeded in tags:
        return torch.ones((), dtype=torch.bool)
    if packet not in _ACROSS and not any(bool(k.varies.any()) for k in known):
        return torch.zeros((), dtype=torch.bool)
    if packet in _CONVOLUTION | _TRANSPOSED and not known[1].varies.any():
        connected = [(known[1].value != 0).float(), None, *args[3:]]
        return target(known[0].varies.float(), *connected) > 0.5  # counts of connections, so 0 or at least 1
    if packet is aten.linear and not known[1].varies.any():
        return F.linear(known[0].varies.float(), (known[1].value != 0).float()) > 0.5
    if packet is aten._native_batch_norm_legit_no_training:
        scale = args[1]
        on = torch.ones((), dtype=torch.bool) if scale is None else (scale.value != 0)
        view = [1, -1] + [1] * (args[0].value.dim() - 2)
        return [args[0].varies & (on if scale is None else on.view(view)), *(torch.zeros((), dtype=torch.bool),) * 2]
    if packet in _SAME:
        return known[0].varies
    if packet in _VIEWS:
        return known[0].varies.reshape(args[1])
    if packet is aten.constant_pad_nd:
        return target(known[0].varies, args[1])
    if packet is aten.pad:
        return target(known[0].varies.float(), *args[1:3]) > 0  # constants around it do not vary
    if packet in MOVEMENT:
        moved = pytree.tree_map(lambda a: a.varies if isinstance(a, Known) else a, (args, kwargs))
        return target(*moved[0], **moved[1])
    if packet in POOLING and packet is not aten.upsample_bicubic2d and isinstance(value, Tensor):
        # Pooling a constant that padding made uneven depends on the size of the image.
        flat = known[0].value.flatten(2)
        uneven = (flat != flat[..., :1]).any(-1).view(*flat.shape[:2], *[1] * (value.dim() - 2))
        return (target(known[0].varies.float(), *args[1:], **kwargs) > 0) | uneven
    if packet in _REDUCTIONS:
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        keep = value.dim() == known[0].value.dim()
        dims = dims or list(range(known[0].value.dim()))
        # As in pooling; and a sum of equal numbers is as large as the image.
        uneven = known[0].value.amax(dims, keep) != known[0].value.amin(dims, keep)
        if packet is aten.sum:
            uneven = uneven | (value != 0)
        return (aten.amax(known[0].varies.float(), dims, keep) > 0) | uneven
    if packet is aten.mul and len(known) == 2:
        a, b = known
        # A proven zero stays zero whatever it is multiplied with.
        return (a.varies & (b.varies | (b.value != 0))) | (b.varies & (a.varies | (a.value != 0)))
    if torch.Tag.pointwise in tags:
        merged = torch.zeros((), dtype=torch.bool)
        for k in known:
            merged = merged | k.varies
        return merged
    return torch.ones((), dtype=torch.bool)
