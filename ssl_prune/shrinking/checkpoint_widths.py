"""State dicts that say their own widths: whatever loads one brings the network to them first."""

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.shrinking.history import Lineage, lineage_of
from ssl_prune.utils.tensors import has_own_entries

__all__ = ["KEY", "follow_checkpoints", "widths_in"]

KEY = "slim_widths"  # a tensor of bytes: everything that saves tensors saves it too
_FOLLOWING = "_follows_widths"


def follow_checkpoints(module: nn.Module) -> None:
    """Let `module.state_dict()` hold the widths of networks cut while they trained, and `load_state_dict` restore them.

    A state dict of a dense network brings the network back to its dense form, one of a narrower or a wider network to
    that one's widths. `Shrink` does it for the module that it trains. In a module's `__init__`, after its networks are
    made, it makes `load_from_checkpoint` work too.

    Args:
        module: the module, such as a LightningModule; the networks are submodules of it, or itself.

    Example:
        >>> class Classifier(nn.Module):
        ...     def __init__(self) -> None:
        ...         super().__init__()
        ...         self.network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        ...         follow_checkpoints(self)
        >>> trained, fresh = Classifier(), Classifier()
        >>> with torch.no_grad():
        ...     _ = trained.network[2].weight[:, :5].zero_()
        >>> from ssl_prune.shrinking import training_cut
        >>> _ = Lineage.of(trained.network).cut(training_cut(trained.network, torch.randn(1, 4)).plan)
        >>> fresh.load_state_dict(trained.state_dict()), fresh.network[0]
        (<All keys matched successfully>, Linear(in_features=4, out_features=3, bias=True))
    """
    if getattr(module, _FOLLOWING, False):
        return
    setattr(module, _FOLLOWING, True)
    module.register_state_dict_post_hook(_write)
    module.register_load_state_dict_pre_hook(_read)


def widths_in(state: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Module -> the text of its lineage, in a state dict under a prefix; empty for a dense network.

    Raises:
        SlimError: the entry cannot be read.
    """
    found = {}
    for name, value in state.items():
        if name.startswith(prefix) and (name == KEY or name.endswith(f".{KEY}")):
            if not isinstance(value, Tensor) or value.dim() != 1 or not has_own_entries(value):
                raise SlimError(f"{name}: the widths in this checkpoint cannot be read: expected a row of bytes")
            try:
                text = bytes(value.to(torch.uint8).cpu().tolist()).decode()
            except (UnicodeDecodeError, RuntimeError) as error:
                raise SlimError(f"{name}: the widths in this checkpoint cannot be read: {error}") from error
            found[name[len(prefix) : -len(KEY)].rstrip(".")] = text
    return found


def _write(module: nn.Module, state: MutableMapping[str, Any], prefix: str, metadata: Any) -> None:
    for name, network in module.named_modules():
        lineage = lineage_of(network)
        if lineage is not None:
            state[f"{prefix}{name}.{KEY}" if name else f"{prefix}{KEY}"] = _bytes(lineage.to_json())


def _bytes(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _read(module: nn.Module, state: MutableMapping[str, Any], prefix: str, *_: Any) -> None:
    widths = widths_in(state, prefix)
    for name in widths:
        state.pop(f"{prefix}{name}.{KEY}" if name else f"{prefix}{KEY}")
    modules = dict(module.named_modules())
    for name in widths:
        if name not in modules:
            raise SlimError(
                f"{name}: the checkpoint has widths for it, but this {type(module).__name__} has no such module"
            )
    for name, network in modules.items():
        if name in widths:
            Lineage.of(network).follow(widths[name])
        elif (lineage := lineage_of(network)) is not None:
            lineage.grow()
