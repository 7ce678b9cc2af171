"""Groups of a network on what is left of it after a cut."""

from collections.abc import Mapping

from torch import nn

from ssl_prune.groups import Member, Partition
from ssl_prune.shrinking.index_maps import Source

__all__ = ["carry"]


def carry(groups: Partition, origin: Mapping[str, Source], model: nn.Module) -> Partition | None:
    """The same groups with the same numbers on the entries that are left; a group of which nothing is left is empty.

    Numbers stay so that whatever is kept by group (scores, decisions, strengths) stays right. Groups of single entries
    are numbered anew: they have no numbers to keep.

    Args:
        groups: of the network before the cut.
        origin: where the entries of each parameter after the cut stood.
        model: the network after the cut.

    Returns:
        The partition; None if nothing of any group is left.

    Example:
        >>> import torch
        >>> from ssl_prune.groups import partition
        >>> net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1))
        >>> rows = partition(net, "filter", example_inputs=torch.zeros(1, 2))
        >>> smaller = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
        >>> source = Source("0.weight", torch.Size([3, 2]), torch.tensor([[0, 1], [4, 5]]))
        >>> carry(rows, {"0.weight": source}, smaller).sizes
        tensor([2., 0., 2.])
    """
    now = dict(model.named_parameters())
    members, numbers = [], []
    for position, member in enumerate(groups.members):
        for name, source in origin.items():
            if source.name != member.name:
                continue
            index = None if member.index is None else source.take(member.index)
            if index is None or bool((index >= 0).any()):
                members.append(Member(name, now[name], index, role=member.role))
                numbers.append(position)
    if not members:
        return None
    layer = groups.layer_numbers.cpu()
    if groups.is_entrywise:  # one number a member
        layer = layer[numbers]
    return Partition(members, groups.layers, layer, groups.kind, allow_empty=True)
