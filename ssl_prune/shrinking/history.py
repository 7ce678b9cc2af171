"""From which dense network a network came that was cut while it trained, and by which plan."""

from __future__ import annotations

import json
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim import Optimizer

from ssl_prune.costs import Cost, cost
from ssl_prune.errors import SlimError
from ssl_prune.shrinking.index_maps import Source, sources
from ssl_prune.shrinking.inplace_cut import graft, replace_data
from ssl_prune.slimming.outcome.slim_report import LayerChange, SlimReport
from ssl_prune.slimming.plan.plan import SlimPlan
from ssl_prune.utils.copies import copied
from ssl_prune.utils.inputs import Inputs, map_tensors
from ssl_prune.utils.tensors import own_tensors

__all__ = ["Lineage", "dense_form", "lineage_of"]

_KNOWN: WeakKeyDictionary[nn.Module, Lineage] = WeakKeyDictionary()


def lineage_of(network: nn.Module) -> Lineage | None:
    """The lineage of a network that was cut in place; None for one that is as it was made.

    Args:
        network: any.

    Example:
        >>> lineage_of(nn.Linear(2, 1)) is None
        True
    """
    found = _KNOWN.get(network)
    return found if found is not None and found.plan is not None else None


def dense_form(network: nn.Module) -> nn.Module:
    """A network as it was made, with zeros where it was cut; the network itself if it never was.

    Args:
        network: any.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> dense_form(net) is net
        True
    """
    lineage = lineage_of(network)
    return network if lineage is None else lineage.dense()


class Lineage:
    """Cuts a network in place, again and again, and knows the way back.

    Args:
        network: as it was made: dense.

    Attributes:
        plan: from the dense network to this one; None as long as nothing was cut.
        removed: layer -> number of channels that were removed.

    Example:
        >>> from ssl_prune.slimming.plan.plan import ModulePlan
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> keep = {"0": ModulePlan({"weight": {0: [0, 2]}, "bias": {0: [0, 2]}}, {"out_features": 2}),
        ...         "2": ModulePlan({"weight": {1: [0, 2]}}, {"in_features": 2})}
        >>> plan = SlimPlan(keep, {name: list(t.shape) for name, t in net.state_dict().items()})
        >>> lineage = Lineage.of(net)
        >>> _ = lineage.cut(plan)
        >>> net[0], lineage.dense()[0]
        (Linear(in_features=2, out_features=2, bias=True), Linear(in_features=2, out_features=3, bias=True))
        >>> lineage.grow()
        >>> net[0]
        Linear(in_features=2, out_features=3, bias=True)
    """

    def __init__(self, network: nn.Module) -> None:
        # Weak: the lineage is kept for the network, and would keep it alive for ever.
        self._network = weakref.ref(network)
        self.plan: SlimPlan | None = None
        self.removed: Counter[str] = Counter()
        self._modules = {name: module for name, module in network.named_modules() if name}
        self._params = dict(network.named_parameters(remove_duplicate=False))
        # The structure alone, with tensors that take no memory.
        empty = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in network.parameters()}
        self._structure = copied(network, {**empty, **{id(b): b.to("meta") for b in network.buffers()}})

    @classmethod
    def of(cls, network: nn.Module) -> Lineage:
        """The lineage of a network; it begins now if there is none.

        Args:
            network: as it was made, if it has none yet.
        """
        if network not in _KNOWN:
            _KNOWN[network] = cls(network)
        return _KNOWN[network]

    @property
    def network(self) -> nn.Module:
        """The network as it is now."""
        found = self._network()
        assert found is not None
        return found

    def cut(
        self, plan: SlimPlan, optimizers: Sequence[Optimizer] = (), removed: Mapping[str, int] | None = None
    ) -> dict[str, Source]:
        """Cut the network in place; see `graft`.

        Args:
            plan: for the network as it is now.
            optimizers: those that train it.
            removed: layer -> channels that the plan removes, for reports.

        Returns:
            For each parameter that is left, where its entries stood before.

        Raises:
            SlimError: an optimizer cannot follow; nothing is changed then.
        """
        origin = graft(plan, self.network, optimizers)
        self.plan = plan if self.plan is None else self.plan.followed_by(plan)
        self.removed.update(removed or {})
        return origin

    def grow(self) -> None:
        """Give the network its dense form back, with zeros for tensors: a checkpoint fills them."""
        if self.plan is None:
            return
        model, structure = self.network, self._structure
        place = next(model.parameters()).device
        changed = _attributes(self.plan)
        for name, module in self._modules.items():  # outer ones come first
            if _at(model, name) is not module:
                model.set_submodule(name, module.train(model.training))
        for name, twin in structure.named_modules():
            here = model.get_submodule(name)
            for leaf, shape in ((k, p.shape) for k, p in twin._parameters.items() if p is not None):
                param = self._params[f"{name}.{leaf}" if name else leaf]
                if param.shape != shape or param.device != place:
                    replace_data(param, param.data.new_zeros(shape, device=place))
                setattr(here, leaf, param)
            for leaf, buffer in ((k, b) for k, b in twin._buffers.items() if b is not None):
                own = here._buffers.get(leaf)
                if own is None or own.shape != buffer.shape or own.device != place:
                    setattr(here, leaf, torch.zeros(buffer.shape, dtype=buffer.dtype, device=place))
            for key in changed.get(name, ()):
                if hasattr(twin, key):
                    setattr(here, key, getattr(twin, key))
        self.plan, self.removed = None, Counter()

    def dense(self) -> nn.Module:
        """A network of the dense form with the values of this one, and zeros where they were removed."""
        model, structure = self.network, self._structure
        place = next(model.parameters()).device
        own, now = own_tensors(structure), own_tensors(model)
        values = {name: torch.zeros(t.shape, dtype=t.dtype, device=place) for name, t in own.items()}
        for name, source in sources(self.plan or SlimPlan({}, {}), structure, buffers=True).items():
            values[source.name].view(-1)[source.index.to(place)] = now[name].detach().to(place)
        filled = {
            id(t): nn.Parameter(values[name], t.requires_grad) if isinstance(t, nn.Parameter) else values[name]
            for name, t in own.items()
        }
        return copied(structure, filled).train(model.training)

    def sources(self) -> dict[str, Source]:
        """For each parameter of the network, where its entries stand in the dense one."""
        return sources(self.plan or SlimPlan({}, {}), self._structure)

    def cost(self, inputs: Inputs) -> Cost:
        """What the dense network costs.

        Args:
            inputs: a tensor, a tuple or a dict.
        """
        return cost(self.dense(), map_tensors(torch.clone, inputs))

    def cost_now(self, inputs: Inputs) -> Cost:
        """What this network costs.

        Args:
            inputs: a tensor, a tuple or a dict.
        """
        return cost(self.network, map_tensors(torch.clone, inputs))

    def complete(self, plan: SlimPlan, report: SlimReport, inputs: Inputs) -> tuple[SlimPlan, SlimReport]:
        """Plan and report of a cut of this network, as those of the dense one.

        Args:
            plan: of this network.
            report: likewise.
            inputs: the example that the report counts on.
        """
        if self.plan is None:
            return plan, report
        before = self.cost(inputs)
        last = {layer.name: layer for layer in report.layers}
        layers = []
        for name, layer in before.layers.items():
            module, after = _at(self._structure, name), last.get(name)
            own = [] if module is None else [p for p in module.parameters(recurse=False) if p.dim() > 1]
            if own and layer.macs:
                rest = (None, 0, 0) if after is None else (after.after, after.macs[1], after.params[1])
                layers.append(
                    LayerChange(name, tuple(own[0].shape), rest[0], (layer.macs, rest[1]), (layer.params, rest[2]))
                )
        whole = replace(
            report,
            macs=(before.macs, report.macs[1]),
            params=(before.params, report.params[1]),
            bytes=(before.bytes, report.bytes[1]),
            removed=dict(self.removed + Counter(report.removed)),
            layers=tuple(layers),
        )
        return self.plan.followed_by(plan), whole

    def to_json(self) -> str:
        """Plan and counts as text."""
        assert self.plan is not None
        return json.dumps({"plan": self.plan.to_json(), "removed": dict(self.removed)}, separators=(",", ":"))

    def follow(self, text: str | None) -> None:
        """Bring the network to the widths of what `to_json` wrote, wider or narrower than now; None: to the dense form.

        The values of its tensors are lost where it changes.

        Raises:
            SlimError: not such a text, or that of another network.
        """
        if text is None:
            self.grow()
            return
        try:
            data = json.loads(text)
            plan, removed = (
                SlimPlan.from_json(data["plan"]),
                Counter({str(k): int(v) for k, v in data["removed"].items()}),
            )
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise SlimError(f"the widths in this checkpoint cannot be read: {type(error).__name__}: {error}") from error
        if self.plan is not None and self.plan.to_json() == plan.to_json():
            return
        plan.check(self._structure)
        self.grow()
        self.cut(plan)
        self.removed = removed


def _at(model: nn.Module, name: str) -> nn.Module | None:
    """The submodule of that name; None if there is none any more."""
    found: nn.Module | None = model
    for part in name.split(".") if name else ():
        found = None if found is None else found._modules.get(part)
    return found


def _attributes(plan: SlimPlan | None) -> dict[str, set[str]]:
    """Module -> attributes that the steps of a plan change."""
    found: dict[str, set[str]] = {}
    for step in () if plan is None else plan.steps:
        for name, entry in step.modules.items():
            found.setdefault(name, set()).update(entry.attributes)
    return found
