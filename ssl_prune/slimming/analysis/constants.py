"""Constant propagation: what each channel carries where it is read, and whether that depends on the input.

One concrete run gives the values; an exact taint mask beside it says which elements can change with the input. A
convolution's result varies where some varying element meets a non-zero weight, a batch norm's where its scale is not
zero, and so on. What does not vary is a constant, and the concrete run already shows which: constants through batch
norm, activations and additions need no rules of their own.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ssl_prune.graph.export.example_sizes import data_numbers, shapes_alone
from ssl_prune.graph.export.interpreter import Execution
from ssl_prune.graph.export.macs import LARGE, program_macs
from ssl_prune.graph.export.program import module_of
from ssl_prune.graph.faults import fault, name_of
from ssl_prune.graph.labels.broadcast import base, collapse
from ssl_prune.slimming.analysis.dependence import varying
from ssl_prune.slimming.analysis.dependence_masks import uniform
from ssl_prune.slimming.analysis.known import Known
from ssl_prune.slimming.analysis.skip_products import skipped
from ssl_prune.slimming.subject import Subject

__all__ = ["ChannelValues", "ValuePass"]


class _NoiseRefusedError(Exception):
    """An operator that does not take noise where the network has other numbers."""


@dataclass(frozen=True)
class ChannelValues:
    """What a reader finds in each of its input channels.

    Args:
        varies: ``(I,)`` the channel depends on the input somewhere.
        uniform: ``(I,)`` it does not vary and is one and the same number at every position, up to rounding.
        constant: ``(I,)`` that number (where `uniform`), float64.
    """

    varies: Tensor
    uniform: Tensor
    constant: Tensor


class ValuePass(Execution):
    """Runs the program on the example and keeps, for each node in `watched`, what its channels carry.

    Args:
        subject: the network, in evaluation mode.
        watched: nodes with the axes of their channels; a node may be read along several.
    """

    def __init__(self, subject: Subject, watched: list[tuple[fx.Node, tuple[int, ...]]]) -> None:
        program = subject.graph.program
        super().__init__(program, subject.tensors, subject.inputs)
        self._watched: dict[fx.Node, set[tuple[int, ...]]] = {}
        for node, axes in watched:
            self._watched.setdefault(node, set()).add(axes)
        self.channels: dict[tuple[fx.Node, tuple[int, ...]], ChannelValues] = {}
        self.constants: dict[fx.Node, Tensor] = {}  # along the second axis
        self.last_constants: dict[fx.Node, Tensor] = {}  # along the last one
        self.silent: dict[fx.Node, Tensor] = {}  # embedding -> (D,) channels that are zero for all of the example
        self.failed: dict[fx.Node, str] = {}  # node -> what the report says of the rule that failed there or before
        self.output_varies = False
        self._quick = program_macs(program) > LARGE
        with torch.no_grad():
            try:
                self.run()
            except _NoiseRefusedError:
                self._quick = False
                for found in (self.channels, self.constants, self.last_constants, self.silent, self.failed):
                    found.clear()
                self.run()

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A weight (known) or an input (varies)."""
        name, value = self.node.name, super().placeholder(target, args, kwargs)
        if name in self.program.inputs:
            result = Known(value, _all(value, True)) if isinstance(value, Tensor) else value
        else:
            # A buffer that the forward writes into is another one at the next call.
            written = self.program.tensors.get(name) in self.program.mutated
            result = Known(value, _all(value, written), free=True)
        return self._watch(self.node, result)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the operator on the values and its taint rule beside it."""
        node = self.node
        if getattr(target, "__name__", "") == "getitem":
            return self._watch(node, args[0][args[1]])
        short = self._short(node, args, kwargs) if self._quick else None
        if short is not None:
            return self._watch(node, Known(short[0], collapse(short[1].expand(short[0].shape))))
        plain_args, plain_kwargs = pytree.tree_map(lambda a: a.value if isinstance(a, Known) else a, (args, kwargs))
        try:
            value = super().call_function(target, plain_args, plain_kwargs)
        except Exception as error:
            if self._quick:
                raise _NoiseRefusedError from error
            raise
        known = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Known)]
        free = bool(known) and all(k.free for k in known)
        before = next((self.failed[used] for used in node.all_input_nodes if used in self.failed), None)
        if before is not None:
            self.failed[node] = before
        try:
            varies = _varying(node, value, args, kwargs, free)
        except Exception as error:
            self.failed[node] = before or fault(node, error)
            varies = torch.ones((), dtype=torch.bool)
        if isinstance(value, (tuple, list)):
            parts = varies if isinstance(varies, (tuple, list)) else [varies] * len(value)
            result: Any = [
                Known(v, collapse(t.to(v.device).expand(v.shape)), free) if isinstance(v, Tensor) else v
                for v, t in zip(value, parts, strict=True)
            ]
        elif isinstance(value, Tensor):
            result = Known(value, collapse(varies.to(value.device).expand(value.shape)), free)
        else:
            result = value
        return self._watch(node, result)

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note whether any output depends on the input."""
        known = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Known)]
        self.output_varies = any(bool(base(k.varies).any()) for k in known)

    def _short(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
        try:
            return skipped(node, args, kwargs)
        except Exception as error:
            fault(f"the short cut of operator {name_of(node)}", error)
            return None

    def _watch(self, node: fx.Node, result: Any) -> Any:
        if not isinstance(result, Known):
            return result
        for axes in self._watched.get(node, ()):
            self.channels[node, axes] = _channels(result, axes)
        if getattr(node.target, "overloadpacket", None) is torch.ops.aten.embedding:
            self.silent[node] = (result.value == 0).reshape(-1, result.value.shape[-1]).all(0).cpu()
        if module_of(node) and result.value.dim() > 1 and not bool(base(result.varies).any()):
            for axis, known in ((1, self.constants), (result.value.dim() - 1, self.last_constants)):
                constant = _channels(result, (axis,))
                if bool(constant.uniform.all()):
                    known[node] = constant.constant
        return result


def _varying(node: fx.Node, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any], free: bool) -> Any:
    """`varying`, for an operator that is given numbers computed from data too."""
    if not data_numbers(node) or shapes_alone(node):
        return varying(node, value, args, kwargs, free)
    if getattr(node.target, "_overloadname", "") != "Tensor" or torch.Tag.pointwise not in node.target.tags:  # type: ignore[union-attr]
        return torch.ones((), dtype=torch.bool)
    args = tuple(_as_value(n, a) for n, a in zip(node.args, args, strict=True))
    return varying(node, value, args, kwargs, False)


def _as_value(node: Any, argument: Any) -> Any:
    number = isinstance(node, fx.Node) and isinstance(argument, (int, float))
    return Known(torch.tensor(argument), torch.ones((), dtype=torch.bool)) if number else argument


def _all(like: Tensor, varies: bool) -> Tensor:
    return torch.full((), varies, dtype=torch.bool, device=like.device).expand(like.shape)


def _channels(known: Known, axes: tuple[int, ...]) -> ChannelValues:
    def rows(tensor: Tensor) -> Tensor:
        moved = tensor.movedim(axes, tuple(range(len(axes))))
        return moved.reshape(moved.shape[: len(axes)].numel(), moved.shape[len(axes) :].numel())

    value, small = known.value, base(known.varies)
    size = [value.shape[axis] if axis in [a % value.dim() for a in axes] else n for axis, n in enumerate(small.shape)]
    varies = rows(small.expand(size)).any(1)
    if not value.numel():  # an empty value carries nothing, so nothing is known of it
        everywhere = torch.ones(len(varies), dtype=torch.bool)
        return ChannelValues(everywhere, ~everywhere, torch.zeros(len(varies), dtype=torch.float64))
    same = torch.zeros_like(varies)
    constant = torch.zeros(len(varies), dtype=torch.float64, device=value.device)
    still = (~varies).nonzero().flatten()
    if len(still):
        found = rows(value if len(axes) > 1 else value.index_select(axes[0], still))
        found = found[still] if len(axes) > 1 else found
        even, first = uniform(found, 1), found[:, 0]
        if first.is_complex():  # one that is not real is no constant that could be folded
            even, first = even & (first.imag == 0), first.real
        same[still], constant[still] = even, first.double()
    return ChannelValues(varies, same, constant)
