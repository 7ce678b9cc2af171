"""What a network's forward can write into: attributes of its modules and objects, containers, closures, caches."""

import functools
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CACHED", "REGISTRIES", "content", "reached"]

CACHED: Any = type(functools.lru_cache(lambda: None))
# Names of the dicts in which every module has its parameters, submodules and hooks; most are empty.
REGISTRIES = frozenset(name for name, value in vars(nn.Module()).items() if isinstance(value, dict))
# Whose classes and functions a forward does not write into; some lead to the whole process.
_FOREIGN = {"torch", "numpy", "lightning", "pytorch_lightning", "lightning_fabric", "ssl_prune", "logging", "builtins"}
_FOREIGN |= {"typing", "types"}
_PLAIN = {
    *(bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size),
    *(types.ModuleType, types.BuiltinFunctionType, types.CodeType),
}
_CONTAINERS = (list, dict, deque, set)
_CODE = (types.FunctionType, staticmethod, classmethod, property, CACHED)


def reached(model: nn.Module) -> Iterator[Any]:
    """Everything that the forward of `model` can write into, each once.

    These are modules, whose `REGISTRIES` are not named apart, other objects with attributes, lists, dicts, deques and sets,
    cells of closures, caches of functions, random generators and tensors. Of classes, and of the global names of their code, it is containers and caches.

    Args:
        model: the network.

    Example:
        >>> net = nn.ReLU()
        >>> net.seen = [[1]]
        >>> [found for found in reached(net) if isinstance(found, list)]
        [[[1]], [1]]
    """
    stack: list[Any] = [model]
    seen: dict[int, Any] = {}  # with the value: one that is made on the way, as a bound method, must keep its id
    while stack:
        value = stack.pop()
        kind = type(value)
        if kind in _PLAIN or id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, type):
            if not _is_foreign(value):
                stack += [member for member in vars(value).values() if isinstance(member, (*_CONTAINERS, *_CODE))]
                stack += value.__bases__
        elif isinstance(value, _CODE):
            if kind is CACHED:
                yield value
            stack += _inside(value)
        elif isinstance(value, (tuple, frozenset)):
            stack += value
        elif isinstance(value, types.MethodType):
            stack += [value.__self__, value.__func__]
        elif isinstance(value, functools.partial):
            stack += [value.func, value.args, value.keywords]
        elif isinstance(value, types.CellType):
            yield value
            stack += content(value)
        elif isinstance(value, (Tensor, torch.Generator)):
            yield value
        elif isinstance(value, nn.Module):
            yield value
            for name, own in vars(value).items():
                if name not in REGISTRIES:
                    stack.append(own)
                elif own:
                    stack += own.values()
            stack.append(kind)
        elif isinstance(value, _CONTAINERS) or (hasattr(value, "__dict__") and not _is_foreign(kind)):
            yield value
            if isinstance(value, _CONTAINERS):
                stack += value
            if isinstance(value, dict):
                stack += dict.values(value)
            if hasattr(value, "__dict__"):
                stack += [*vars(value).values(), kind]


def _inside(code: Any) -> list[Any]:
    """What a function, or what is made of one, keeps, and the global names that it may write into."""
    if isinstance(code, property):
        return [code.fget]
    if not isinstance(code, types.FunctionType):
        return [code.__wrapped__]
    if _is_foreign(code):
        return []
    names = (code.__globals__.get(name) for name in code.__code__.co_names)
    stores = [found for found in names if _is_store(found, _package(code))]
    return [*(code.__closure__ or ()), *(code.__defaults__ or ()), *(code.__kwdefaults__ or {}).values(), *stores]


def content(cell: types.CellType) -> list[Any]:
    """What a cell of a closure holds; nothing before its first assignment."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _is_store(found: Any, package: str) -> bool:
    """A container, or code of the same package as what names it."""
    return isinstance(found, _CONTAINERS) or (isinstance(found, _CODE) and _package(found) == package)


def _package(kind: Any) -> str:
    return str(getattr(kind, "__module__", "builtins")).partition(".")[0]


def _is_foreign(kind: Any) -> bool:
    return _package(kind) in _FOREIGN
