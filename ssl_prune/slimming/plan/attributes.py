"""Attributes that state a width: those of PyTorch's own layers, and numbers that a user's module keeps."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.graph import ChannelGraph
from ssl_prune.graph.export.program import modules_of
from ssl_prune.slimming.subject import Subject

__all__ = ["ambiguous_attributes", "guessed_attributes", "layer_attributes", "numbers"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip

_NAMES = 4  # of ambiguous numbers that are tried one by one


def layer_attributes(
    module: nn.Module, keep: dict[str, dict[int, list[int]]], grouped: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The attributes of one of PyTorch's own layers after the cut.

    Args:
        module: the dense layer.
        keep: own tensor -> axis -> positions that stay.
        grouped: columns that stay in each group of a grouped convolution, see `ModulePlan`.
    """
    if isinstance(module, _NORMS):  # whichever vector it has: a scale, or statistics only
        left = [len(axes[0]) for axes in keep.values() if 0 in axes]
        return {"num_features": left[0]} if left else {}
    if isinstance(module, nn.GroupNorm):
        channels = next((len(axes[0]) for axes in keep.values() if 0 in axes), module.num_channels)
        return {"num_channels": channels, "num_groups": channels * module.num_groups // module.num_channels}
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        end = "_l0" if isinstance(module, nn.RNNBase) else ""
        sizes = {"input_size": keep.get(f"weight_ih{end}", {}), "hidden_size": keep.get(f"weight_hh{end}", {})}
        return {name: len(kept[1]) for name, kept in sizes.items() if 1 in kept}
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return {}
    kept = keep.get("weight", {})
    shape = [len(kept[axis]) if axis in kept else size for axis, size in enumerate(weight.shape)]
    if isinstance(module, nn.Linear):
        return {"in_features": shape[1], "out_features": shape[0]}
    if isinstance(module, nn.Bilinear):
        return {"out_features": shape[0], "in1_features": shape[1], "in2_features": shape[2]}
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return {"embedding_dim": shape[1]}
    if isinstance(module, _CONVOLUTIONS):
        if grouped is not None:
            columns = [c for c in grouped["columns"] if c]
            return {"in_channels": sum(map(len, columns)), "out_channels": shape[0], "groups": len(columns)}
        depthwise = module.groups > 1 and module.groups == module.in_channels
        groups = module.groups * shape[0] // module.out_channels if depthwise else module.groups
        return {"in_channels": shape[1] * groups, "out_channels": shape[0], "groups": groups}
    if isinstance(module, _TRANSPOSED):
        if grouped is not None:
            columns = [c for c in grouped["columns"] if c]
            return {"in_channels": shape[0], "out_channels": sum(map(len, columns)), "groups": len(columns)}
        depthwise = module.groups > 1 and module.groups == module.in_channels
        groups = shape[0] if depthwise else module.groups
        return {"in_channels": shape[0], "out_channels": shape[1] * groups, "groups": groups}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": shape[0]}
    return {}


def guessed_attributes(subject: Subject, dead: Tensor, guess: bool | str = True) -> dict[str, dict[str, Any]]:
    """Numbers of the user's own modules that equal a width which changes: of heads, their dimensions, pieces of a split.

    A guess, to be proven like everything else. Where a number stands for two widths of which one changes, names that
    count things ("num_heads", "n_groups") follow the change and others do not.

    Args:
        subject: the network.
        dead: ``(U,)`` what goes.
        guess: the name of another attribute that follows; or "wide": every number does, also where another width of the
            same size stays, and where only modules inside handle the values: code that does no more than check its input
            leaves no operator.

    Returns:
        Module name -> attribute -> new number, or numbers.
    """
    stays = torch.cat([~dead, torch.ones(1, dtype=torch.bool)])
    widths, sizes = _widths(subject.graph, stays, guess == "wide"), _split_sizes(subject.graph, stays)
    found = {}
    for scope in dict.fromkeys([*widths, *sizes]):
        own: dict[str, Any] = {}
        for name, value in _numbers_of(subject, scope):
            pieces = tuple(value) if isinstance(value, list) else value
            new = next((left for old, left in sizes.get(scope, []) if old == pieces), None)
            new = _follow(name, value, widths.get(scope, {}), guess) if new is None else new
            if new is not None:
                own[name] = new
        if own:
            found[scope] = own
    return found


def ambiguous_attributes(subject: Subject, dead: Tensor) -> list[str]:
    """Names of numbers that stand for a width that changes and for one that stays, and do not follow by themselves.

    Args:
        subject: the network.
        dead: ``(U,)`` what goes.
    """
    found: dict[str, None] = {}
    for scope, changes in _widths(subject.graph, torch.cat([~dead, torch.ones(1, dtype=torch.bool)]), False).items():
        for name, value in _numbers_of(subject, scope):
            if _follow(name, value, changes, True) != _follow(name, value, changes, name):
                found[name] = None
    return list(found)[:_NAMES]


def _widths(graph: ChannelGraph, stays: Tensor, wide: bool) -> dict[str, dict[int, set[int]]]:
    """Module -> size of an axis that its code handles -> what becomes of it."""
    widths: dict[str, dict[int, set[int]]] = {}
    for node, units in graph.boxes.items():
        mask = stays[units]
        if bool(mask.all()) and units.dim() < 2:
            continue
        around = [modules_of(n) or ("",) for n in (node, *node.users)]
        scopes = dict.fromkeys(name for names in around for name in (names if wide else names[-1:]))
        full = node.meta["val"]
        if not isinstance(full, Tensor):
            continue
        for axis in range(units.dim()):
            if units.shape[axis] > 1:
                left = int(mask.sum(axis).max())
                for scope in scopes:
                    widths.setdefault(scope, {}).setdefault(units.shape[axis], set()).add(left)
    return widths


def _numbers_of(subject: Subject, scope: str) -> Iterator[tuple[str, Any]]:
    """Numbers that a module of the user's keeps, or a norm that has nothing else to say its width."""
    module = subject.modules.get(scope)
    if module is None or (type(module).__module__.startswith("torch.nn.") and not _says_width_alone(module)):
        return
    for name, value in vars(module).items():
        if numbers(value) is not None:
            yield name, value


def _says_width_alone(module: nn.Module) -> bool:
    """A norm of PyTorch's own that has no tensors by which its width is known."""
    return isinstance(module, _NORMS) and not any(True for _ in (*module.parameters(), *module.buffers()))


def numbers(value: Any) -> list[int] | None:
    """A whole number or a row of them as a list; None for whatever else a module keeps, which may not even be comparable."""
    row = value if type(value) in (list, tuple) else [value]
    return list(row) if all(type(each) is int for each in row) else None


def _follow(name: str, value: Any, changes: dict[int, set[int]], guess: bool | str) -> Any:
    """What an attribute becomes that equals a width which changes, see `guessed_attributes`."""
    if not isinstance(value, int) or value not in changes:
        return None
    new = changes[value] - {value}
    counts = guess in ("wide", name) or any(part in name.lower() for part in ("num", "n_", "heads", "groups"))
    return new.pop() if len(new) == 1 and (value not in changes[value] or counts) else None


def _split_sizes(graph: ChannelGraph, stays: Tensor) -> dict[str, list[tuple[Any, Any]]]:
    """Module -> what its code splits by, one length or several, and what that becomes where pieces get shorter."""
    found: dict[str, list[tuple[Any, Any]]] = {}
    for node in graph.program.graph.nodes:
        packet = getattr(node.target, "overloadpacket", None)
        if packet not in (torch.ops.aten.split, torch.ops.aten.split_with_sizes):
            continue
        source, sizes, axis = node.args[0], node.args[1], node.args[2] if len(node.args) > 2 else 0
        units = graph.boxes.get(source)
        if units is None or units.shape[axis] == 1:
            continue
        several = isinstance(sizes, (list, tuple))
        left = [int(piece.sum(axis).max()) for piece in stays[units].split(sizes, axis)]
        entry = (tuple(sizes), left) if several else (sizes, left[0])
        if entry[0] != (tuple(left) if several else left[0]):
            found.setdefault((modules_of(node) or ("",))[-1], []).append(entry)
    return found
