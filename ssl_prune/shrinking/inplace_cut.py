"""A cut in place: parameters stay the objects that they are, and what optimizers keep for them follows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssl_prune.errors import SlimError
from ssl_prune.shrinking.index_maps import Source, sources
from ssl_prune.slimming.plan.plan import SlimPlan
from ssl_prune.utils.tensors import laid_out_as

__all__ = ["check_optimizers", "graft", "replace_data"]

_OTHERS = "Train with another optimizer (SGD, Adam, AdamW, RMSprop, Adagrad, Adafactor), or without Shrink"


def check_optimizers(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Refuse optimizers whose state cannot follow a cut, before anything is changed.

    What follows is every state tensor that broadcasts to its parameter (momentum, moments, factors of them) and every
    single number.

    Raises:
        SlimError: a state of another kind, such as LBFGS keeps.

    Args:
        model: the network.
        optimizers: those that train it.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> check_optimizers(net, [torch.optim.SGD(net.parameters(), momentum=0.9)])
    """
    names = {id(p): name for name, p in model.named_parameters()}
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.LBFGS):
            raise SlimError(f"LBFGS keeps a history of all parameters as one vector, which cannot be cut. {_OTHERS}")
        for param, state in optimizer.state.items():
            if id(param) not in names:
                continue
            for key, value in state.items():
                if not _follows(value, param):
                    got = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                    raise SlimError(
                        f"{type(optimizer).__name__} keeps {key!r} for {names[id(param)]} {tuple(param.shape)}: {got}, "
                        f"expected a number or a tensor that broadcasts to the parameter, which can be cut as it is. {_OTHERS}"
                    )


@torch.no_grad()
def graft(plan: SlimPlan, model: nn.Module, optimizers: Sequence[Optimizer] = ()) -> dict[str, Source]:
    """Cut `model` in place, and let the optimizers go on with what is left.

    A parameter stays the same object with fewer entries, so that optimizers, schedulers and hooks know it still. Its
    gradient and its state are cut to the same entries. Parameters that go leave the optimizers.

    Args:
        plan: a plan for `model`.
        model: the network.
        optimizers: those that train it; parameters of other networks in them are left alone.

    Returns:
        For each parameter that is left, where its entries stood.

    Raises:
        SlimError: an optimizer's state cannot follow, or the plan makes a parameter that none of them would know.
            Nothing is changed then.

    Example:
        >>> from ssl_prune.slimming.plan.plan import ModulePlan
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> keep = {"0": ModulePlan({"weight": {0: [0, 2]}, "bias": {0: [0, 2]}}, {"out_features": 2}),
        ...         "2": ModulePlan({"weight": {1: [0, 2]}}, {"in_features": 2})}
        >>> plan = SlimPlan(keep, {name: list(t.shape) for name, t in net.state_dict().items()})
        >>> weight = net[0].weight
        >>> graft(plan, net, [torch.optim.Adam(net.parameters())])["0.weight"].index
        tensor([[0, 1],
                [4, 5]])
        >>> net[0].weight is weight, tuple(weight.shape)
        (True, (2, 2))
    """
    check_optimizers(model, optimizers)
    before = dict(model.named_parameters())
    origin = sources(plan, model)
    _refuse_new_parameters(plan, model, origin)
    plan.apply(model, inplace=True)
    after = dict(model.named_parameters())
    heirs: dict[int, list[nn.Parameter]] = {id(p): [] for p in before.values()}
    alone = _only_heirs(origin)
    for name, new in after.items():
        source = origin[name]
        old = before[source.name]
        if old is new:
            heirs[id(old)].append(old)
            continue
        gradient = None if old.grad is None else source.take(old.grad)
        state = {o: {k: _taken(v, source) for k, v in o.state[old].items()} for o in optimizers if old in o.state}
        kept = old if name in alone else new
        if kept is old:
            replace_data(old, laid_out_as(new.data, old))
            _put(model, new, old)
        kept.grad = gradient
        for optimizer, values in state.items():
            if kept is old:
                optimizer.state[kept] = values
            else:  # several heirs must not count the steps of one counter
                optimizer.state[kept] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in values.items()}
        heirs[id(old)].append(kept)
    ranks = [{id(p): i for i, p in enumerate(params)} for params in (before.values(), model.parameters())]
    for optimizer in optimizers:
        _regroup(optimizer, heirs, *ranks)
    _release(before.values(), {id(p) for p in model.parameters()})
    return origin


def replace_data(param: nn.Parameter, data: Tensor) -> None:
    """Give a parameter a tensor of another shape, without its gradient."""
    param.grad = None
    # Whoever still holds an old loss holds the node that adds up gradients, and with it the old shape; another dtype makes
    # torch let go of the node.
    param.data = torch.empty(
        0, dtype=torch.float64 if data.dtype != torch.float64 else torch.float32, device=data.device
    )
    param.data = data


def _follows(value: Any, param: Tensor) -> bool:
    if isinstance(value, Tensor):
        fits = value.dim() == param.dim() and all(n in (1, m) for n, m in zip(value.shape, param.shape, strict=True))
        return value.numel() == 1 or fits
    return value is None or isinstance(value, (int, float, bool, str))


def _taken(value: Any, source: Source) -> Any:
    return source.take(value) if isinstance(value, Tensor) and value.numel() > 1 else value


def _refuse_new_parameters(plan: SlimPlan, model: nn.Module, origin: Mapping[str, Source]) -> None:
    made = dict(plan.apply(model, shared=True).named_parameters())
    unknown = [name for name in made if name not in origin]
    if unknown:
        raise SlimError(f"{unknown[0]}: the cut makes a parameter that was not there before, which nothing would train")


def _only_heirs(origin: Mapping[str, Source]) -> set[str]:
    """Parameters after the cut that are all that is left of one before."""
    count: dict[str, int] = {}
    for source in origin.values():
        count[source.name] = count.get(source.name, 0) + 1
    return {name for name, source in origin.items() if count[source.name] == 1}


def _put(model: nn.Module, new: nn.Parameter, old: nn.Parameter) -> None:
    for module in model.modules():
        for leaf in [leaf for leaf, param in module._parameters.items() if param is new]:
            setattr(module, leaf, old)  # recurrent layers keep a list of their own, which follows an assignment


def _regroup(
    optimizer: Optimizer,
    heirs: Mapping[int, list[nn.Parameter]],
    before: Mapping[int, int],
    after: Mapping[int, int],
) -> None:
    """Replace each parameter by what is left of it, in the order that an optimizer made now would have."""
    for settings in optimizer.param_groups:
        places = [before[id(p)] for p in settings["params"] if id(p) in before]
        params = [p for old in settings["params"] for p in heirs.get(id(old), [old])]
        if places == sorted(places):  # of one that became several, the network's order mixes weights and biases
            own = iter(sorted((p for p in params if id(p) in after), key=lambda p: after[id(p)]))
            params = [next(own) if id(p) in after else p for p in params]
        settings["params"][:] = params
    known = {id(p) for settings in optimizer.param_groups for p in settings["params"]}
    for param in [p for p in optimizer.state if id(p) in heirs and id(p) not in known]:
        del optimizer.state[param]


def _release(params: Iterable[nn.Parameter], left: set[int]) -> None:
    """Let go of the memory of what was removed, whoever still holds the parameter."""
    for param in params:
        if id(param) not in left:
            replace_data(param, param.data.new_empty(0))
