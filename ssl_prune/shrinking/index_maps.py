"""Where every entry of a cut network's parameters comes from."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.slimming.plan.plan import ModulePlan, SlimPlan
from ssl_prune.utils.copies import copied
from ssl_prune.utils.tensors import laid_out_as, own_tensors

__all__ = ["Source", "sources"]


@dataclass(frozen=True, eq=False)
class Source:
    """The origin of one parameter.

    Args:
        name: of the parameter before the cut.
        shape: its shape.
        index: positions in it, flattened, in the shape of the parameter after the cut.

    Example:
        >>> rows = Source("fc.weight", torch.Size([3, 2]), torch.tensor([[0, 1], [4, 5]]))  # rows 0 and 2
        >>> rows.take(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        tensor([[1., 2.],
                [5., 6.]])
    """

    name: str
    shape: torch.Size
    index: Tensor

    @property
    def whole(self) -> bool:
        """Nothing was cut."""
        return self.index.shape == self.shape

    def take(self, values: Tensor) -> Tensor:
        """What is left of values that broadcast to the parameter before the cut: of size 1 where they were before."""
        if values.dim() == 0 or (self.whole and values.shape == self.shape):
            return values
        spread = [d for d, (n, m) in enumerate(zip(values.shape, self.shape, strict=True)) if n == 1 and m != 1]
        taken = values.expand(self.shape).reshape(-1)[self.index.to(values.device)]
        for axis in spread:
            taken = taken.narrow(axis, 0, min(1, taken.shape[axis]))
        return laid_out_as(taken, values)


def sources(plan: SlimPlan, model: nn.Module, buffers: bool = False) -> dict[str, Source]:
    """For each parameter of the network that the plan leaves, where its entries stand in `model`.

    Args:
        plan: a plan for `model`.
        model: the network before the cut; only its structure counts, not its values.
        buffers: for each buffer too.

    Raises:
        SlimError: a parameter of the cut network is not made of the entries of one before.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> first = ModulePlan({"weight": {0: [0, 2]}, "bias": {0: [0, 2]}}, {"out_features": 2})
        >>> keep = {"0": first, "2": ModulePlan({"weight": {1: [0, 2]}}, {"in_features": 2})}
        >>> plan = SlimPlan(keep, {name: list(t.shape) for name, t in net.state_dict().items()})
        >>> sources(plan, net)["0.weight"].index
        tensor([[0, 1],
                [4, 5]])
    """
    tensors = own_tensors(model)
    known: dict[int, Tensor] = {}
    starts, start = [], 0
    for tensor in tensors.values():
        starts.append(start)
        # In float64, which holds every position exactly and which modules let themselves be made of.
        count = torch.arange(start, start + tensor.numel(), dtype=torch.float64).view(tensor.shape)
        known[id(tensor)] = nn.Parameter(count, requires_grad=False) if isinstance(tensor, nn.Parameter) else count
        start += tensor.numel()
    numbered = _without_folds(plan).apply(copied(model, known), inplace=True)
    names, firsts = list(tensors), torch.tensor(starts)
    left: list[tuple[str, Tensor]] = list(numbered.named_parameters())
    if buffers:  # the constants of dead branches are new
        left += [(name, buffer) for name, buffer in numbered.named_buffers() if name in tensors]
    found: dict[str, Source] = {}
    for name, tensor in left:
        index = tensor.detach().long()
        if not index.numel():
            raise SlimError(f"{name}: nothing would be left of it")
        owner = int(torch.searchsorted(firsts, index.flatten()[0], right=True)) - 1
        # Tensors without entries share a start with the next one: the last of them is the one with entries.
        source = Source(names[owner], tensors[names[owner]].shape, index - starts[owner])
        if int(source.index.min()) < 0 or int(source.index.max()) >= source.shape.numel():
            raise SlimError(
                f"{name}: the plan makes it of several parameters, so that no optimizer state could follow it"
            )
        found[name] = source
    return found


def _without_folds(plan: SlimPlan) -> SlimPlan:
    return SlimPlan.of_steps(
        [replace(step, modules={name: _without_fold(own) for name, own in step.modules.items()}) for step in plan.steps]
    )


def _without_fold(entry: ModulePlan) -> ModulePlan:
    return entry if entry.fold is None else replace(entry, fold=None)
