"""Which layers a partition looks at: `include` and `exclude` by name pattern or by module type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ssl_prune.utils.nearest import nearest

Pattern = str | type[nn.Module]
Patterns = Pattern | Iterable[Pattern]


def is_transposed(layer: nn.Module) -> bool:
    """Whether the layer is a transposed convolution: its weight is ``(in, out / groups, ...)``."""
    return isinstance(layer, _ConvTransposeNd)


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """All Conv1d/2d/3d, ConvTranspose1d/2d/3d and Linear modules by name; a module used twice once."""
    return {name: m for name, m in model.named_modules() if isinstance(m, _ConvNd | nn.Linear)}


def select_layers(
    model: nn.Module, include: Patterns | None = None, exclude: Patterns | None = None
) -> dict[str, nn.Module]:
    """The prunable layers that match `include` (None: all) and not `exclude`.

    A layer matches a pattern if its own name or that of a module it lies in does (`fnmatch`, so ``*`` also crosses
    dots), and a type if it, or a module it lies in, is an instance.

    Args:
        model: the network.
        include: a pattern such as ``"conv*"`` or ``"layer3"``, a module type, or several of these.
        exclude: the same; wins over `include`.

    Returns:
        Name to module, in the order of the model.

    Raises:
        ValueError: a pattern or type matches no layer, or nothing is left.
        TypeError: the model is no module, or a pattern is neither a string nor a module type.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 3), nn.Linear(3, 4))
        >>> list(select_layers(net, include=nn.Linear, exclude="3"))
        ['2']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {model!r}, expected a network, an object of torch.nn.Module")
    layers = prunable_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no convolution or linear layer, so nothing to group")
    chosen = set(layers) if include is None else _matching(model, layers, include, "include")
    if exclude is not None:
        chosen -= _matching(model, layers, exclude, "exclude")
    if not chosen:
        raise ValueError(f"include={include!r} and exclude={exclude!r} leave no layer of {_names(layers)}")
    return {name: layer for name, layer in layers.items() if name in chosen}


def _matching(model: nn.Module, layers: Mapping[str, nn.Module], patterns: Patterns, role: str) -> set[str]:
    several: Iterable[Pattern] = [patterns] if isinstance(patterns, str | type) else patterns
    modules = dict(model.named_modules(remove_duplicate=False))
    found: set[str] = set()
    for pattern in several:
        if not isinstance(pattern, str) and not (isinstance(pattern, type) and issubclass(pattern, nn.Module)):
            raise TypeError(f"{role}: expected a name pattern or a module type, got {pattern!r}")
        hits = {name for name in layers if any(_matches(n, modules[n], pattern) for n in _lineage(name))}
        if not hits:
            what = repr(pattern) if isinstance(pattern, str) else pattern.__name__
            near = nearest(pattern, layers) if isinstance(pattern, str) else ""
            raise ValueError(f"{role}: {what} matches no layer; the layers are {_names(layers)}{near}")
        found |= hits
    return found


def _lineage(name: str) -> list[str]:
    """The name itself and those of the modules it lies in, without the root: a.b.c, a.b, a."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def _matches(name: str, module: nn.Module, pattern: Pattern) -> bool:
    return fnmatchcase(name, pattern) if isinstance(pattern, str) else isinstance(module, pattern)


def _names(layers: Iterable[str]) -> str:
    return ", ".join(name or "(the model itself)" for name in layers)
