"""Everything that is to be found in a network, to compare what it was before and after."""

import functools
import types
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

_CACHED = type(functools.lru_cache(lambda: None))


def whole_state(model: nn.Module) -> dict[str, Any]:
    """By its path from the network: the identity of each object, the numbers of tensors, the members of containers."""
    found: dict[str, Any] = {}
    seen: dict[int, Any] = {}

    def look(path: str, value: Any) -> None:
        found[path] = value if isinstance(value, (bool, int, float, str, type(None))) else id(value)
        if isinstance(value, types.MethodType):
            found[path] = (id(value.__self__), id(value.__func__))
        if id(value) in seen:
            return
        seen[id(value)] = value
        if isinstance(value, Tensor):
            found[path + " numbers"] = (value.data_ptr(), value.detach().clone(), value.requires_grad)
        elif isinstance(value, nn.Module):
            found[path + " class"] = type(value)
            look(path + ".__dict__", vars(value))
            look(
                path + ".cache",
                {k: v for k, v in vars(type(value)).items() if isinstance(v, (dict, list)) and k[0] != "_"},
            )
        elif isinstance(value, dict):
            found[path + " keys"] = list(value)
            for key, member in value.items():
                look(f"{path}[{key!r}]", member)
        elif isinstance(value, (list, tuple, deque)):
            found[path + " length"] = len(value)
            for place, member in enumerate(value):
                look(f"{path}[{place}]", member)
        elif isinstance(value, (set, frozenset)):
            found[path + " members"] = {id(member) for member in value}
        elif isinstance(value, types.FunctionType):
            for place, cell in enumerate(value.__closure__ or ()):
                look(f"{path} cell {place}", cell.cell_contents)
        elif isinstance(value, torch.Generator):
            found[path + " state"] = value.get_state()
        elif hasattr(value, "__dict__") and not isinstance(value, type) and type(value) is not _CACHED:
            look(path + ".__dict__", vars(value))

    look("net", model)
    found["kept alive"] = seen
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Paths where two states differ."""
    paths = [path for path in {*before, *after} if path != "kept alive" and not path.endswith(".cache")]
    return sorted(path for path in paths if not _equal(before.get(path), after.get(path)))


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and torch.equal(torch.nan_to_num(first), torch.nan_to_num(second))
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second) or (first != first and second != second)
