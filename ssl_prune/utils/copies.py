"""Copies of networks, also of those that keep computed tensors."""

import copy
import types
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ssl_prune.utils.reach import content, reached

__all__ = ["copied"]


def copied(model: nn.Module, known: Mapping[int, Any] | None = None) -> nn.Module:
    """A deep copy of `model`.

    What a forward in training left in its attributes (an activation, the weight of `torch.nn.utils.weight_norm`) is
    copied without its history, where `copy.deepcopy` refuses. A hook or a replaced method whose closure holds modules of
    the network holds those of the copy; lists and the like there are the same ones.

    Args:
        model: the network; it is left as it was.
        known: id of a part -> what stands for it in the copy.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 2)
        >>> net.seen = net(torch.ones(1, 2))
        >>> torch.equal(copied(net).seen, net.seen)
        True
    """
    memo = dict(known or {})
    for value in reached(model):
        if isinstance(value, Tensor) and not value.is_leaf:
            memo.setdefault(id(value), value.detach().clone())
    cells = _closures(model, memo)
    twin = _copied(model, memo)
    for old, new in cells:
        try:
            new.cell_contents = copy.deepcopy(old.cell_contents, memo)
        except Exception:  # it leads to what cannot be copied, as an open file
            new.cell_contents = old.cell_contents
    return twin


def _closures(model: nn.Module, memo: dict[int, Any]) -> list[tuple[types.CellType, types.CellType]]:
    """Cells of functions that hold parts of the network, each with the one of the copy's function that is to be filled.

    `copy.deepcopy` takes functions as they are: a hook of the copy would write into the network that it was copied from.
    """
    modules, cells = list(model.modules()), list[tuple[types.CellType, types.CellType]]()
    parts = {id(module) for module in modules}
    stack = [value for module in modules for value in vars(module).values()]
    seen = set[int]()
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (dict, list, tuple)):
            stack += value.values() if isinstance(value, dict) else value
        if not isinstance(value, types.FunctionType) or str(value.__module__).startswith("ssl_prune."):
            continue
        mine = [cell for cell in value.__closure__ or () if any(id(held) in parts for held in content(cell))]
        for cell in mine:
            if id(cell) not in memo:
                memo[id(cell)] = types.CellType()
                cells.append((cell, memo[id(cell)]))
                stack += content(cell)
        if not mine:
            continue
        closure = tuple(memo.get(id(cell), cell) for cell in value.__closure__ or ())
        twin = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, closure)
        twin.__kwdefaults__, twin.__qualname__ = value.__kwdefaults__, value.__qualname__
        twin.__dict__.update(value.__dict__)
        memo[id(value)] = twin
    return cells


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy`, several times faster: most of what a module has in its dictionary is empty or a plain number."""
    if id(module) in memo or any(
        getattr(type(module), name, None) is not getattr(nn.Module, name, None) for name in _OWN
    ):
        found: nn.Module = copy.deepcopy(module, memo)
        for child in found.modules():
            vars(child).pop("_compiled_call_impl", None)
        return found
    twin: nn.Module = memo.setdefault(id(module), type(module).__new__(type(module)))
    for key, value in vars(module).items():
        if key == "_compiled_call_impl":  # of a module compiled in place: it calls the module that it was made of
            continue
        if type(value) in _PLAIN:
            vars(twin)[key] = value
        elif key == "_modules":
            vars(twin)[key] = {name: child if child is None else _copied(child, memo) for name, child in value.items()}
        elif type(value) in (dict, OrderedDict) and not value:
            vars(twin)[key] = type(value)()
        else:
            vars(twin)[key] = copy.deepcopy(value, memo)
    return twin


_PLAIN = {bool, int, float, str, type(None)}
_OWN = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
