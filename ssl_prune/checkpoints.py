"""Weights from files that others wrote: plain state dicts and Lightning checkpoints, with or without a prefix."""

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.shrinking import Lineage
from ssl_prune.shrinking.checkpoint_widths import KEY, widths_in
from ssl_prune.utils.copies import copied

__all__ = ["load_weights", "read_state_dict", "refuse_foreign"]

# Where training scripts keep the state dict among other things, in the order in which it is looked for.
_ENTRIES = ("state_dict", "model_state_dict", "model", "network", "net", "module", "weights", "params")
_SHOWN = 3


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a `.pt`, `.pth`, `.ckpt` or `.safetensors` file; nothing in it is run.

    A dict that holds the state dict among other things (`state_dict`, `model_state_dict`, `model` ...) is opened; what
    is no tensor (epochs, optimizer states) is left out.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        SlimError: it is damaged, or no checkpoint.

    Returns:
        Name -> tensor, on the CPU.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/net.pt"
        >>> torch.save({"epoch": 3, "state_dict": torch.nn.Linear(2, 1).state_dict()}, path)
        >>> list(read_state_dict(path))
        ['weight', 'bias']
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such checkpoint")
    found = _read(path)
    inner, seen = found, {id(found)}
    while isinstance(inner, Mapping) and (name := next((n for n in _ENTRIES if isinstance(inner.get(n), Mapping)), "")):
        inner = inner[name]
        if id(inner) in seen:
            raise SlimError(
                f"{path}: {name} holds itself, expected a state_dict; save it with torch.save(model.state_dict(), FILE)"
            )
        seen.add(id(inner))
    if not isinstance(inner, Mapping):
        raise SlimError(
            f"{path}: holds a {type(inner).__name__}, expected a state_dict or a checkpoint with one; save it with "
            "torch.save(model.state_dict(), FILE)"
        )
    tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise SlimError(
            f"{path}: no tensors in it, only {_some(map(str, inner)) or 'an empty dict'}; expected a state_dict, or one under a key such as "
            f"{', '.join(_ENTRIES[:3])}"
        )
    return tensors


def load_weights(model: nn.Module, path: str | os.PathLike[str], prefix: str | None = None) -> str:
    """Load a file's weights into `model`, which must be there as a whole, under one prefix.

    A network that was cut while it trained (see `Shrink`) brings `model` to its widths.

    Args:
        model: the network; it is changed only when everything fits.
        path: the file, see `read_state_dict`.
        prefix: what stands before the network's own names in the file, such as "model."; default: what is found there.
            Under a prefix, what lies outside of it (a loss, another network) is not looked at.

    Returns:
        The prefix.

    Raises:
        FileNotFoundError: there is no such file.
        SlimError: it is damaged, no checkpoint, or one of another network.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/net.pt"
        >>> net = nn.Linear(2, 3)
        >>> torch.save({"state_dict": {f"model.{k}": v for k, v in net.state_dict().items()}}, path)
        >>> load_weights(nn.Linear(2, 3), path)
        'model.'
    """
    tensors = read_state_dict(path)
    widths = widths_in(tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] != KEY}
    if not widths:
        return _load(model, path, prefix, tensors)
    # Tried on a copy, so that a network that does not fit keeps its own widths.
    for network in (copied(model), model):
        found = _follow(network, widths, prefix)
        prefix = _load(network, path, found if prefix is None else prefix, tensors)
    return prefix or ""


def refuse_foreign(path: str | os.PathLike[str], lightning: bool = True) -> None:
    """Raise where a file is no checkpoint, before a Trainer is asked to read it.

    Args:
        path: the file.
        lightning: it has to be one that a Trainer wrote, which holds more than weights.

    Raises:
        SlimError: it is damaged, no checkpoint, or not a Trainer's.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/net.pt"
        >>> torch.save(nn.Linear(2, 3).state_dict(), path)
        >>> refuse_foreign(path, lightning=False)
        >>> refuse_foreign(path)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ssl_prune.errors.SlimError: .../net.pt: got weight, bias, expected what a Trainer saved, with ...
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such checkpoint")
    found = _read(path, mapped=True)
    if not isinstance(found, Mapping):
        raise SlimError(f"{path}: holds a {type(found).__name__}, expected a state_dict or a checkpoint with one")
    missing = [key for key in ("state_dict", "pytorch-lightning_version") if key not in found]
    if lightning and missing:
        raise SlimError(
            f"{path}: got {_some(map(str, found)) or 'nothing'}, expected what a Trainer saved, with {', '.join(missing)}; bare "
            "weights serve `ssl-prune slim`"
        )


def _read(path: str | os.PathLike[str], mapped: bool = False) -> Any:
    """What a file holds, by its first bytes; `mapped`: its tensors stay in the file, where its kind can."""
    with open(path, "rb") as file:
        start = file.read(9)
    return _safetensors(path) if start[8:] == b"{" else _pickled(path, mapped and zipfile.is_zipfile(path))


def _follow(model: nn.Module, widths: Mapping[str, str], prefix: str | None) -> str:
    """Bring the networks in `model` to the widths of a file; returns the prefix that their place in the file tells."""
    modules = dict(model.named_modules())
    for place, text in widths.items():
        inside = place.removeprefix((prefix or "").rstrip(".")).lstrip(".")
        if inside in modules and (inside or prefix is not None or not place):
            Lineage.of(modules[inside]).follow(text)
        else:
            Lineage.of(model).follow(text)
            return f"{place}."
    return prefix or ""


def _load(model: nn.Module, path: str | os.PathLike[str], prefix: str | None, tensors: dict[str, Tensor]) -> str:
    own = {name: t for name, t in model.state_dict(keep_vars=True).items() if name.rpartition(".")[2] != KEY}
    if prefix is None:
        prefix = _prefix(path, model, own, tensors)
    given = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    given = _completed(own, given)
    missing, unexpected = [n for n in own if n not in given], [n for n in given if n not in own]
    where = f" under {prefix!r}" if prefix else ""
    if missing or unexpected:
        problems = [f"missing {_some(missing)}"] * bool(missing) + [f"not expected {_some(unexpected)}"] * bool(
            unexpected
        )
        raise SlimError(
            f"{path}: the weights{where} are not those of {type(model).__name__}: {'; '.join(problems)}. The file has "
            f"{_some(tensors)}, the network {_some(own)}; build the network with the arguments it was trained with"
        )
    for name, tensor in given.items():
        if isinstance(own[name], Tensor) and (tensor.is_meta or _form(tensor) != _form(own[name])):
            raise SlimError(
                f"{path}: {prefix}{name} is {_form(tensor)}, {type(model).__name__} expects {_form(own[name])}; save plain "
                "tensors, before quantising"
            )
        if isinstance(own[name], Tensor) and tensor.shape != own[name].shape:
            raise SlimError(
                f"{path}: {prefix}{name} has shape {tuple(tensor.shape)}, {type(model).__name__} expects "
                f"{tuple(own[name].shape)}; build the network with the arguments it was trained with"
            )
    # A module that follows checkpoints would take one without widths for a dense one.
    given |= {name: tensor for name, tensor in model.state_dict().items() if name.rpartition(".")[2] == KEY}
    model.load_state_dict(given)
    return prefix


def _safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if "ssl_prune" in (file.metadata() or {}):
                raise SlimError(
                    f"{path}: a slim file, cut already; expected a checkpoint of the dense network. load_slim reads it"
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise SlimError(f"{path}: not a whole safetensors file ({error}); write or copy it again") from error


def _pickled(path: str | os.PathLike[str], mapped: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # whatever unpickling of any bytes may raise
        said = f" ({type(error).__name__})" if os.path.getsize(path) else ", it is empty"
        raise SlimError(
            f"{path}: not a checkpoint that can be read safely{said}. Is it whole? A file that holds Python objects "
            "is not opened; save the weights alone with torch.save(model.state_dict(), FILE)"
        ) from error


def _prefix(path: str | os.PathLike[str], model: nn.Module, own: Mapping[str, Any], given: Mapping[str, Tensor]) -> str:
    """What stands before each of the network's names; "" where nothing fits, so that the error is about plain names."""
    if all(name in given for name in own) or not own:
        return ""
    first = next(iter(own))
    candidates = sorted({name.removesuffix(first) for name in given if name.endswith("." + first)})

    def lacks(prefix: str) -> int:
        inside = {name.removeprefix(prefix): tensor for name, tensor in given.items() if name.startswith(prefix)}
        inside = _completed(own, inside)
        return sum(name not in inside for name in own) + sum(name not in own for name in inside)

    fitting = [prefix for prefix in candidates if not lacks(prefix)]
    if len(fitting) > 1:
        raise SlimError(
            f"{path}: holds {type(model).__name__} more than once, under {_some(fitting)}; say which with --prefix"
        )
    # Where none fits as a whole, the nearest one makes the message that helps.
    return fitting[0] if fitting else min(["", *candidates], key=lacks)


def _completed(own: Mapping[str, Any], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """`given` with what old or economical files leave out: counters of batches, and tied tensors' other names."""
    twins: dict[int, list[str]] = {}
    for name, tensor in own.items():
        twins.setdefault(id(tensor), []).append(name)
    result = dict(given)
    for names in twins.values():
        known = [name for name in names if name in given]
        for name in names:
            if name not in given and known:
                result[name] = given[known[0]]
            elif name not in given and name.endswith("num_batches_tracked"):
                result[name] = own[name].detach()
    return result


def _form(tensor: Tensor) -> str:
    """How the entries are kept."""
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "nested" if tensor.is_nested else f"sparse ({tensor.layout})"
    return "empty" if tensor.is_meta else "dense"


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
