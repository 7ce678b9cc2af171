"""A slim network as one safetensors file: tensors, and the plan in the metadata. No pickle."""

import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.slimming.outcome.result import SlimResult
from ssl_prune.slimming.plan.plan import SlimPlan
from ssl_prune.utils.files import replacing

__all__ = ["load_slim", "save_slim"]

_FORMAT = 1


def save_slim(path: str | os.PathLike[str], result: SlimResult) -> None:
    """Write the tensors of `result.model` and its plan to one file, whole or not at all.

    Args:
        path: the file, usually ending in .safetensors; its folder must exist.
        result: what `slim` returned; `result.model` may have been trained further.

    Raises:
        FileNotFoundError: the folder does not exist.
        SlimError: the network's state dict holds something else than tensors.

    Example:
        >>> import tempfile
        >>> from ssl_prune import load_slim, slim
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with torch.no_grad():
        ...     _ = net[2].weight[:, :5].zero_()
        >>> path = tempfile.mkdtemp() + "/net.safetensors"
        >>> save_slim(path, slim(net, torch.randn(1, 4)))
        >>> load_slim(path, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))[2]
        Linear(in_features=3, out_features=2, bias=True)
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in result.model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise SlimError(
                f"{name}: the state dict holds a {type(tensor).__name__} there; a slim file holds tensors only. Register "
                "it as a buffer, or leave it out of get_extra_state"
            )
        known = first.setdefault(id(tensor), name)
        if known == name:
            tensors[name] = tensor.detach().contiguous()
        else:
            aliases[name] = known
    plan = result.plan.to_json()
    metadata = {
        "ssl_prune": json.dumps(
            {
                "format": _FORMAT,
                "version": _version(),
                "aliases": aliases,
                "plan_sha256": hashlib.sha256(plan.encode()).hexdigest(),
                "tensors_sha256": _digest(tensors, aliases),
            }
        ),
        "plan": plan,
    }
    with replacing(path) as part:
        save_file(tensors, part, metadata=metadata)


def load_slim(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """A slim network from its file and a fresh dense instance; no tracing, no example input.

    Args:
        path: a file that `save_slim` wrote.
        model: a network of the dense architecture; it is left as it was.

    Returns:
        A slim copy of `model` with the file's weights.

    Raises:
        FileNotFoundError: there is no such file.
        SlimError: the file is damaged, not a slim file, of a newer format, or made for another network.

    Example:
        >>> import tempfile
        >>> from ssl_prune import slim
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> path = tempfile.mkdtemp() + "/net.safetensors"
        >>> save_slim(path, slim(net, torch.zeros(1, 4)))
        >>> torch.equal(load_slim(path, net)(torch.ones(1, 4)), net(torch.ones(1, 4)))
        True
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file; save_slim writes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise SlimError(f"{path}: not a whole safetensors file ({error}); write or copy it again") from error
    if "ssl_prune" not in metadata or "plan" not in metadata:
        raise SlimError(f"{path}: a safetensors file without a plan; expected one that save_slim wrote")
    header = _header(path, metadata["ssl_prune"])
    if header["format"] > _FORMAT:
        raise SlimError(
            f"{path}: file format {header['format']} of version {header['version']}; this version reads up to {_FORMAT}. "
            "Install a newer version of ssl-prune"
        )
    if hashlib.sha256(metadata["plan"].encode()).hexdigest() != header["plan_sha256"]:
        raise SlimError(f"{path}: the plan does not match its checksum; the file is damaged, copy it again")
    if _digest(tensors, header["aliases"]) != header["tensors_sha256"]:
        raise SlimError(f"{path}: the tensors do not match their checksum; the file is damaged, copy it again")
    cut = SlimPlan.from_json(metadata["plan"]).apply(model)
    tensors.update({name: tensors[known] for name, known in header["aliases"].items()})
    try:
        cut.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise SlimError(f"{path}: made for another network than this {type(model).__name__}: {error}") from error
    return cut


def _header(path: str | os.PathLike[str], text: str) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(text)
        kinds = {"format": int, "version": str, "aliases": dict, "plan_sha256": str, "tensors_sha256": str}
        if all(isinstance(header[key], kind) for key, kind in kinds.items()):
            return header
        problem = "a field of another type"
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
    raise SlimError(f"{path}: the header cannot be read ({problem}); the file is damaged, copy it again")


def _digest(tensors: dict[str, Tensor], aliases: dict[str, str]) -> str:
    total = hashlib.sha256(json.dumps(sorted(aliases.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()


def _version() -> str:
    try:
        return version("ssl-prune")
    except PackageNotFoundError:  # run from a folder, not installed
        return "unknown"
