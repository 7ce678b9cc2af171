"""From ties between positions to removable units, for graphs that know no program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.graph.channel_graph import ParameterAxis
from ssl_prune.graph.fallback.autograd_graph import AutogradGraph, Layer
from ssl_prune.graph.fallback.per_channel_ops import CONVOLUTIONS, WRITERS, is_own
from ssl_prune.graph.fallback.recording import Calls
from ssl_prune.graph.labels.union_find import UnionFind

__all__ = ["Ties"]

KEPT = -1


class Ties:
    """Collects what is tied, run by run.

    Args:
        model: the network; only names, shapes and identities are looked at.
        refusal: passed on to the graph.
    """

    def __init__(self, model: nn.Module, refusal: str) -> None:
        self.calls = Calls()
        self._model, self._refusal = model, refusal
        self._modules = dict(model.named_modules())
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._tensors = {**self._parameters, **dict(model.named_buffers(remove_duplicate=False))}
        self._first: dict[int, str] = {}
        for name, tensor in self._tensors.items():
            self._first.setdefault(id(tensor), name)
        self._sets = UnionFind()
        self._axes: dict[tuple[str, int], Tensor] = {}
        self._roles: dict[tuple[str, int], str] = {}
        self._pins: dict[str, list[Tensor]] = {}
        self._norms: dict[str, tuple[str, ...]] = {}
        self._used: set[str] = set()
        self._ways = 0

    def saw(self, calls: Calls, used: set[str]) -> None:
        """Note a run: its calls, and the parameters that autograd reached."""
        self.calls.merge(calls)
        self._used |= used
        self._ways += 1

    def layer(self, name: str, norms: Sequence[str]) -> None:
        """Note a layer that ran, and the norms that are all that reads it."""
        before = self._norms.get(name)
        self._norms[name] = tuple(dict.fromkeys((*(before or ()), *norms))) if norms and before != () else ()

    def add(
        self, layer: str, axes: list[tuple[str, int, str]], problem: str | None, source: list[int], target: list[int]
    ) -> None:
        """Tie channels that `layer` writes to positions of other tensors, or pin them.

        Args:
            layer: name of the layer.
            axes: (tensor, axis, role) of the other end.
            problem: why the channels must stay; None if they need not.
            source: channels of the layer.
            target: the positions they are tied to, one each.
        """
        module = self._modules[layer]
        own = self._labels(f"{layer}.weight" if layer else "weight", _out_axis(module))[torch.tensor(source)]
        if problem is not None:
            self._pins.setdefault(problem, []).append(own)
        positions = torch.tensor(target)
        for name, axis, role in axes:
            labels = self._labels(name, axis)
            if int(positions.max()) >= len(labels):
                self._pins.setdefault(f"positions of {layer} and {name} do not fit", []).append(own)
                continue
            self._roles.setdefault((self._canonical(name), axis), role)
            if role == "writer":
                self._roles[self._canonical(name), axis] = role
            self._sets.unite(labels[positions], own)

    def resolve(self) -> AutogradGraph:
        """Number the classes that may go."""
        matrices = {name: m for name in self._modules if name in self._norms and (m := self._matrix(name)) is not None}
        reasons: dict[int, list[str]] = {}
        for reason, pinned in self._pins.items():
            for root in self._sets.find(torch.cat(pinned)).unique().tolist():
                reasons.setdefault(root, []).append(reason)
        self._keep_unread(matrices, reasons)
        unreached = self._unreached()
        boundaries = self._keep_outside(unreached, reasons) if unreached else ()
        # In the order of the network, so that units of one layer are neighbours.
        roots = [root for written, _ in matrices.values() for root in self._sets.find(written).tolist()]
        removable = torch.tensor([r for r in dict.fromkeys(roots) if r not in reasons], dtype=torch.long)
        number = torch.full((1 + max((int(ids.max()) for ids in self._axes.values()), default=0),), KEPT)
        number[removable] = torch.arange(len(removable))

        def units(labels: Tensor) -> Tensor:
            return number[self._sets.find(labels)]

        found = [
            ParameterAxis(name, axis, self._roles.get((name, axis), "reader"), units(labels))
            for (name, axis), labels in self._axes.items()
        ]
        order = {name: place for place, name in enumerate(self._tensors)}
        axes = sorted((a for a in found if bool((a.units >= 0).any())), key=lambda a: (order[a.name], a.axis))
        counts = Counter(reason for root in dict.fromkeys(roots) for reason in reasons.get(root, ()))
        return AutogradGraph(
            num_units=len(removable),
            axes=tuple(a for a in axes if a.name in self._parameters),
            buffers=tuple(a for a in axes if a.name not in self._parameters),
            readers=(),
            pinned=tuple(counts.items()),
            layers=tuple(self._layer(name, units, *matrix) for name, matrix in matrices.items()),
            kept={name: self._why(written, reasons) for name, (written, _) in matrices.items()},
            boundaries=boundaries,
            unreached=unreached,
            ways=self._ways,
            refusal=self._refusal,
        )

    # -- details -----------------------------------------------------------------------------------------------

    def _canonical(self, name: str) -> str:
        return self._first[id(self._tensors[name])]

    def _labels(self, name: str, axis: int) -> Tensor:
        key = self._canonical(name), axis
        if key not in self._axes:
            self._axes[key] = self._sets.new(self._tensors[name].shape[axis])
        return self._axes[key]

    def _layer(self, name: str, units: Callable[[Tensor], Tensor], written: Tensor, read: Tensor | None) -> Layer:
        module = self._modules[name]
        into = units(read) if read is not None else torch.full((_size(module),), KEPT)
        weight = self._canonical(f"{name}.weight" if name else "weight")
        groups = getattr(module, "groups", 1)
        return Layer(name, weight, units(written), into, 1 - _out_axis(module), groups, self._norms[name])

    def _why(self, written: Tensor, reasons: dict[int, list[str]]) -> tuple[str, ...]:
        found = [reason for root in self._sets.find(written).unique().tolist() for reason in reasons.get(root, ())]
        return tuple(dict.fromkeys(found))

    def _matrix(self, name: str) -> tuple[Tensor, Tensor | None] | None:
        """Labels of what a layer writes and of what it reads."""
        module = self._modules[name]
        if not isinstance(module, WRITERS) or not is_own(module, WRITERS):
            return None
        weight, out = f"{name}.weight" if name else "weight", _out_axis(module)
        if isinstance(module, nn.Embedding):
            return self._labels(weight, out), None
        if isinstance(module, CONVOLUTIONS) and module.groups > 1:
            return self._labels(weight, out), self._labels(weight, out) if _depthwise(module) else None
        return self._labels(weight, out), self._labels(weight, 1 - out)

    def _keep_unread(self, matrices: Mapping[str, tuple[Tensor, Tensor | None]], reasons: dict[int, list[str]]) -> None:
        """Channels that no layer is seen to read go somewhere that the graph does not show."""
        read = {
            root
            for written, labels in matrices.values()
            if labels is not None and labels is not written
            for root in self._sets.find(labels).tolist()
        }
        for written, _ in matrices.values():
            for root in self._sets.find(written).tolist():
                if root not in read:
                    reasons.setdefault(root, ["no layer is seen to read them"])

    def _unreached(self) -> tuple[str, ...]:
        """Modules with parameters or buffers that never ran."""
        return tuple(
            name
            for name, module in self._modules.items()
            if (module._parameters or module._buffers)
            and name not in self.calls.inside
            and not any((f"{name}.{leaf}" if name else leaf) in self._used for leaf in module._parameters)
        )

    def _keep_outside(self, unreached: tuple[str, ...], reasons: dict[int, list[str]]) -> tuple[str, ...]:
        """Keep what a module that never ran might read: all but units inside modules that do not hold it.

        Those modules are returned; where their outputs do not change, nothing outside can tell.
        """
        theirs = {id(t) for n in unreached for t in self._modules[n].parameters(recurse=False)}
        home: dict[int, str | None] = {}
        for (name, _), labels in self._axes.items():
            safe: str | None = None
            if id(self._tensors[name]) not in theirs:
                around = [self._outside(owner, unreached) for owner in self._places(name)]
                safe = around[0] if len(set(around)) == 1 else None
            for root in set(self._sets.find(labels).tolist()):
                home[root] = safe if home.setdefault(root, safe) == safe else None
        for root, safe in home.items():
            if safe is None:
                reason = f"{unreached[0]}, which never ran on the example, might read them"
                reasons.setdefault(root, []).append(reason)
        return tuple(dict.fromkeys(safe for root, safe in home.items() if safe and root not in reasons))

    def _outside(self, owner: str, unreached: tuple[str, ...]) -> str | None:
        """The widest module around every call of `owner` that holds none of `unreached`."""
        around = (name for name in self.calls.inside.get(owner, ()) if name and not _holds(name, unreached))
        return next(around, None)

    def _places(self, name: str) -> set[str]:
        """Every module that holds a tensor."""
        wanted = self._tensors[name]
        return {
            owner
            for owner, module in self._modules.items()
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is wanted
        }


def _holds(name: str, unreached: tuple[str, ...]) -> bool:
    return any(other == name or other.startswith(f"{name}.") for other in unreached)


def _out_axis(module: nn.Module) -> int:
    return 1 if isinstance(module, nn.Embedding) or getattr(module, "transposed", False) else 0


def _depthwise(module: nn.Module) -> bool:
    return bool(module.groups == module.in_channels == module.out_channels)


def _size(module: Any) -> int:
    return int(module.num_embeddings if isinstance(module, nn.Embedding) else module.in_channels)
