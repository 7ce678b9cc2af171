"""Said at the start of a run that cuts: nothing of this network can be removed, layer by layer."""

from torch import nn
from torch.nn.parameter import is_lazy

from ssl_prune._lightning import pl
from ssl_prune.callbacks._run_context import RunContext
from ssl_prune.errors import SlimError
from ssl_prune.groups.kept_layers import why_kept
from ssl_prune.groups.select import prunable_layers
from ssl_prune.shrinking import lineage_of

__all__ = ["say_if_nothing_goes"]


def say_if_nothing_goes(who: object, pl_module: pl.LightningModule, network: nn.Module) -> None:
    """Warn, before it has been trained, where no channel of a network can ever be removed.

    Args:
        who: the callback that will cut.
        pl_module: around the network; its example input is known by now.
        network: whose channels may go.

    Warns:
        UserWarning: none may, with each layer and the reason.
    """
    # Of a network that was cut before, what is left may be all that it needs.
    if lineage_of(network) is not None or any(is_lazy(p) for p in network.parameters()):
        return
    context = RunContext.of(pl_module)
    try:
        example = context.example(pl_module, network)
        graph = None if example is None else context.graph(network, example)
    except (SlimError, ValueError, TypeError):  # the cut says it, with what training leaves
        return
    if graph is None or graph.num_units:
        return
    pl.utilities.rank_zero_warn(
        f"{type(who).__name__}: whatever training sets to zero, no channel of {type(network).__name__} can be removed"
        + why_kept(prunable_layers(network), graph)
    )
