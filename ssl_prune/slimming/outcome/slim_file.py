"""A slim network as one safetensors file: tensors, and the plan in the metadata. No pickle."""

import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.slimming.outcome.result import SlimResult
from ssl_prune.slimming.outcome.stored_tensors import check_aliases, check_tensors, follow_dtypes, refuse_nan
from ssl_prune.slimming.plan.plan import SlimPlan
from ssl_prune.slimming.plan.schema import check_header, parsed
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
        SlimError: the network's state dict holds something else than tensors, or a parameter holds NaN.

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
    refuse_nan(result.model, tensors)
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
        A slim copy of `model` with the file's weights, in the precision that they have there.

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
    tensors, metadata = _read(path)
    if "ssl_prune" not in metadata or "plan" not in metadata:
        raise SlimError(f"{path}: a safetensors file without a plan; expected one that save_slim wrote")
    header = _header(path, metadata["ssl_prune"])
    if hashlib.sha256(metadata["plan"].encode()).hexdigest() != header["plan_sha256"]:
        raise SlimError(f"{path}: the plan does not match its checksum; the file is damaged, copy it again")
    if _digest(tensors, header["aliases"]) != header["tensors_sha256"]:
        raise SlimError(f"{path}: the tensors do not match their checksum; the file is damaged, copy it again")
    try:
        cut = SlimPlan.from_json(metadata["plan"]).apply(model)
        check_aliases(tensors, header["aliases"])
        tensors.update({name: tensors[known] for name, known in header["aliases"].items()})
        check_tensors(cut, tensors)
        follow_dtypes(cut, tensors)
    except SlimError as error:
        raise SlimError(f"{path}: {error}") from error
    try:
        cut.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise SlimError(f"{path}: made for another network than this {type(model).__name__}: {error}") from error
    return cut


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata, opened once: a writer may replace the file at any moment."""
    with open(path, "rb") as file:
        content = file.read()
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise SlimError(f"{path}: not a whole safetensors file ({error}); write or copy it again") from error
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__")
    return tensors, metadata or {}


def _header(path: str | os.PathLike[str], text: str) -> dict[str, Any]:
    try:
        header = parsed(text)
        number = header.get("format") if isinstance(header, dict) else None
        if type(number) is int and number > _FORMAT:
            raise SlimError(
                f"file format {number}; this version reads up to {_FORMAT}. Install a newer version of ssl-prune"
            )
        check_header(header)
    except (ValueError, SlimError) as error:
        raise SlimError(f"{path}: {error}") from error
    return dict(header)


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
