"""The tensors of a slim file against the network that takes them: names, shapes, precision, and what the plan says too."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.slimming.modules.column_conv import ColumnConv, ColumnLinear
from ssl_prune.slimming.modules.cropped_conv import CroppedConv
from ssl_prune.utils.tensors import named_tensors

__all__ = ["check_aliases", "check_tensors", "follow_dtypes", "refuse_nan"]


def check_aliases(tensors: Mapping[str, Tensor], aliases: Mapping[str, str]) -> None:
    """Refuse a second name of a tensor that is not there, or that is the name of another one.

    Args:
        tensors: of the file.
        aliases: second name -> first one.

    Raises:
        SlimError: names the entry.
    """
    for name, known in aliases.items():
        if known not in tensors or name in tensors:
            raise SlimError(
                f"aliases[{name!r}]: got {known!r}, expected the name of a tensor in the file, for one that is not in it; "
                "the file is damaged, copy it again"
            )


def check_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of another shape or kind than those of the network, and positions that are not the plan's.

    Args:
        model: cut to the plan.
        tensors: of the file, under all of their names; those that it lacks or has beside are not looked at.

    Raises:
        SlimError: names the tensor.
    """
    for name, own in model.state_dict().items():
        given = tensors.get(name)
        if not isinstance(own, Tensor) or given is None:
            continue
        if given.shape != own.shape:
            raise SlimError(
                f"{name}: made for another network than this {type(model).__name__}: got shape {tuple(given.shape)}, expected "
                f"{tuple(own.shape)}"
            )
        if given.dtype != own.dtype and not (given.dtype in _PRECISIONS and own.dtype in _PRECISIONS):
            raise SlimError(f"{name}: got {given.dtype}, expected {own.dtype}; the file is damaged, copy it again")
    for name, module in model.named_modules():
        if not isinstance(module, (ColumnConv, ColumnLinear, CroppedConv)):
            continue
        for leaf, own in module.named_buffers(name):
            given = tensors.get(leaf)
            if given is not None and not torch.equal(given, own.to(given.device)):
                raise SlimError(f"{leaf}: got other positions than the plan's; the file is damaged, copy it again")
    refuse_nan(model, tensors)


def refuse_nan(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse parameters with NaN in them.

    Args:
        model: whose parameters.
        tensors: their values by name.

    Raises:
        SlimError: names the parameter.
    """
    for name, _ in model.named_parameters(remove_duplicate=False):
        values = tensors.get(name)
        if values is not None and values.is_floating_point() and bool(values.isnan().any()):
            raise SlimError(f"{name}: holds NaN, expected numbers; the network diverged, or the file is damaged")


@torch.no_grad()
def follow_dtypes(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the tensors of a network the precision of those that will be loaded.

    Buffers that no file holds follow where all others of their precision go to the same one.

    Args:
        model: changed in place.
        tensors: of the file, under all of their names.
    """
    own = named_tensors(model)
    moves: dict[torch.dtype, set[torch.dtype]] = {}
    for name, tensor in own.items():
        if name in tensors and tensor.dtype in _PRECISIONS:
            moves.setdefault(tensor.dtype, set()).add(tensors[name].dtype)
    if all(new == {old} for old, new in moves.items()):
        return
    changed: dict[int, Tensor] = {}
    for name, tensor in own.items():
        to = {tensors[name].dtype} if name in tensors else moves.get(tensor.dtype, set())
        if len(to) != 1 or to == {tensor.dtype}:
            continue
        (kind,) = to
        if isinstance(tensor, nn.Parameter):
            tensor.data = tensor.data.to(kind)
        else:
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner)._buffers[leaf] = changed.setdefault(id(tensor), tensor.to(kind))


_PRECISIONS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
