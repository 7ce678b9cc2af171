"""A plan: what each module keeps, axis by axis, and what it becomes. Data only, and enough to cut a fresh network."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.slimming.modules.replacements import replacement
from ssl_prune.slimming.plan.constant_folding import Fold, gathered, reordered
from ssl_prune.slimming.plan.fit import check_fit
from ssl_prune.slimming.plan.schema import MOST_STEPS, check_plan, parsed
from ssl_prune.utils.copies import copied
from ssl_prune.utils.tensors import laid_out_as, named_tensors

__all__ = ["FORMAT", "Fold", "ModulePlan", "SlimPlan", "shapes_of"]

FORMAT = 2  # 1: of a single step; those are still written as such


@dataclass(frozen=True)
class ModulePlan:
    """The plan of one module.

    Args:
        keep: own tensor -> axis -> positions of the dense tensor that stay, ascending.
        attributes: attributes that follow the new widths (`out_channels`, `num_features`, ...).
        fold: constants to add to the bias before the cut; a bias is made where there is none.
        grouped: of a grouped convolution whose groups keep different channels: {"groups", "columns"}, the number of groups
            and for each the positions on the weight's second axis that stay, none where the group goes.
        ordered: own tensor -> {"axis", "rows"}: for each slice along its first axis the old place of each new one.
        becomes: {"kind": "Identity"}, {"kind": "Blank", "steps"}, {"kind": "Constant", "values", "dims", "whole", "last"}, {"kind": "Columns", "columns"} or
            {"kind": "Cropped", "frame", "mode", "channels"}; {"kind": "Uneven"} is a recurrent layer whose tensors have
            several widths after the cut, {"kind": "Attention", "sizes", "heads"} an `nn.MultiheadAttention` with the rows
            left of each projection and the heads, {"kind": "Plain"} a layer with the weight that it computed.
    """

    keep: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    fold: Fold | None = None
    becomes: dict[str, Any] | None = None
    grouped: dict[str, Any] | None = None
    ordered: dict[str, Any] | None = None

    def followed_by(self, later: "ModulePlan") -> "ModulePlan":
        """One plan that keeps, of what this one keeps, what the later one keeps."""
        keep = {leaf: dict(axes) for leaf, axes in self.keep.items()}
        for leaf, axes in later.keep.items():
            own = keep.setdefault(leaf, {})
            for axis, kept in axes.items():
                own[axis] = [own[axis][i] for i in kept] if axis in own else list(kept)
        return ModulePlan(keep, {**self.attributes, **later.attributes})


@dataclass(frozen=True)
class SlimPlan:
    """How to turn a dense network into its slim form.

    Args:
        modules: module name -> its plan; modules that stay as they are do not appear.
        shapes: shape of every parameter and buffer of the dense network, to refuse another one.
        then: a plan for the network that this one leaves, where more can go once modules have become others.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> keep = {"0": ModulePlan({"weight": {0: [0, 2]}, "bias": {0: [0, 2]}}, {"out_features": 2}),
        ...         "2": ModulePlan({"weight": {1: [0, 2]}}, {"in_features": 2})}
        >>> plan = SlimPlan(keep, {name: list(t.shape) for name, t in net.state_dict().items()})
        >>> SlimPlan.from_json(plan.to_json()).apply(net)[0]
        Linear(in_features=2, out_features=2, bias=True)
    """

    modules: dict[str, ModulePlan]
    shapes: dict[str, list[int]]
    then: "SlimPlan | None" = None

    @property
    def steps(self) -> "Iterator[SlimPlan]":
        """This plan and those that follow it, first to last."""
        step: SlimPlan | None = self
        while step is not None:
            yield step
            step = step.then

    @classmethod
    def of_steps(cls, steps: "Sequence[SlimPlan]") -> "SlimPlan":
        """Plans that are applied one after the other, as one.

        Args:
            steps: first to last, at least one; what follows each of them by its `then` does not count.
        """
        then: SlimPlan | None = None
        for step in reversed(steps):
            then = replace(step, then=then)
        assert then is not None
        return then

    def to_json(self) -> str:
        """The plan as JSON text.

        Raises:
            SlimError: it has more steps than can be read again.
        """
        steps = list(self.steps)
        data: dict[str, Any] | None = None
        for step in reversed(steps):
            own = {"modules": {name: asdict(entry) for name, entry in step.modules.items()}, "shapes": step.shapes}
            data = own if data is None else {**own, "then": data}
        if len(steps) > MOST_STEPS:
            raise SlimError(f"a plan of {len(steps)} steps, expected up to {MOST_STEPS}; cut less often")
        return json.dumps({"format": 1 if self.then is None else FORMAT, **(data or {})}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "SlimPlan":
        """The plan that `to_json` wrote.

        Args:
            text: of any version up to this one.

        Raises:
            SlimError: not a plan, or one of a newer format; it names the entry that cannot be.
        """
        try:
            data = parsed(text)
        except (ValueError, TypeError) as error:
            raise SlimError(
                f"not a slim plan: {type(error).__name__}: {error}; expected the text that to_json() wrote"
            ) from error
        number = data.get("format") if isinstance(data, dict) else None
        if type(number) is int and number > FORMAT:
            raise SlimError(
                f"plan format {number}: this version reads up to {FORMAT}; install a newer version of ssl-prune"
            )
        try:
            if number is None:
                raise SlimError("plan.format: got nothing, expected a whole number")
            check_plan(data)
        except SlimError as error:
            raise SlimError(f"not a slim plan: {error}") from None
        steps = []
        while data is not None:
            modules = {name: _module_plan(entry) for name, entry in data["modules"].items()}
            steps.append(cls(modules, data["shapes"]))
            data = data.get("then")
        return cls.of_steps(steps)

    def apply(self, model: nn.Module, *, inplace: bool = False, shared: bool = False) -> nn.Module:
        """`model` cut to the plan; needs no example input and no tracing.

        Args:
            model: a network of the architecture and the widths that the plan was made for.
            inplace: cut `model` itself instead of a copy.
            shared: the copy has the very tensors of `model` where nothing is cut: enough to look at it.

        Raises:
            SlimError: a tensor is missing or of another shape; `model` is not touched then.
        """
        steps = list(self.steps)
        if inplace and (len(steps) > 1 or any(entry.becomes for entry in self.modules.values())):
            self.apply(model, shared=True)  # what a later step finds is known only after the first: try it aside, once
        for step in steps:
            step.check(model)
            try:
                model = step._cut(model, inplace, shared)
            except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
                raise SlimError(
                    f"the plan cannot be applied to this {type(model).__name__}: {type(error).__name__}: {error}. Build the "
                    "same dense network as at training; else the plan is damaged"
                ) from error
            inplace = True  # from here on it is a copy
        return model

    def _cut(self, model: nn.Module, inplace: bool, shared: bool) -> nn.Module:
        """`model` after this step alone."""
        cut: dict[int, Tensor] = {}
        places: list[tuple[str, str, Tensor]] = []
        for name, module in self.modules.items():
            for leaf, old, new in _tensors(model.get_submodule(name), module):
                if old is None or id(old) not in cut:
                    cut.update({} if old is None else {id(old): new})
                else:
                    new = cut[id(old)]  # tied: one tensor at every place
                places.append((name, leaf, new))
        if not inplace:
            # The copy takes the cut tensors where the dense ones stand, which are never copied.
            same = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())} if shared else {}
            model = copied(model, {**same, **cut})
        for name, leaf, new in places:
            setattr(model.get_submodule(name), leaf, new)
        for name, module in self.modules.items():
            owner = model.get_submodule(name)
            for attribute, value in module.attributes.items():
                setattr(owner, attribute, tuple(value) if isinstance(value, list) else value)
        # Inner modules first: the one around them may be replaced too.
        for name, module in sorted(self.modules.items(), key=lambda item: -item[0].count(".")):
            if module.becomes is not None:
                model.set_submodule(name, replacement(model, model.get_submodule(name), module.becomes))
        return model

    def followed_by(self, later: "SlimPlan") -> "SlimPlan":
        """This plan, and a later one for the network that it leaves, as one plan.

        Two plans that only choose channels become one; else the later one is the last step.
        """
        *before, last = self.steps
        if later.then is not None or not (last._only_chooses and later._only_chooses):
            return self.of_steps([*before, last, *later.steps])
        modules = dict(last.modules)
        for name, second in later.modules.items():
            modules[name] = modules[name].followed_by(second) if name in modules else second
        return self.of_steps([*before, SlimPlan(modules, last.shapes)])

    @property
    def _only_chooses(self) -> bool:
        return not any(m.fold or m.becomes or m.grouped or m.ordered for m in self.modules.values())

    @staticmethod
    def own(cut: nn.Module, model: nn.Module) -> nn.Module:
        """A network that was cut `shared`, with tensors of its own; those that it shares are copied, no others.

        Args:
            cut: what `apply` returned.
            model: the network that it was applied to.
        """
        theirs = {id(t) for t in itertools.chain(model.parameters(), model.buffers())}
        known = {id(t): t for t in itertools.chain(cut.parameters(), cut.buffers()) if id(t) not in theirs}
        return copied(cut, known)

    def check(self, model: nn.Module) -> None:
        """Refuse a network of other widths than the plan's first step was made for, and what does not fit its modules.

        Args:
            model: the dense network.

        Raises:
            SlimError: a tensor or module is missing, a tensor has another shape, or an entry of the plan does not fit.
        """
        tensors = named_tensors(model)
        for name, shape in self.shapes.items():
            if name not in tensors:
                raise SlimError(
                    f"{name}: not in this {type(model).__name__}; the plan was made for a network that has it. "
                    "Build the same dense network as at training"
                )
            if list(tensors[name].shape) != shape:
                raise SlimError(
                    f"{name}: got shape {tuple(tensors[name].shape)}, the plan expects {tuple(shape)}. Build the dense "
                    "network with the widths it had at training, not a slim one"
                )
        modules = dict(model.named_modules())
        for name, entry in self.modules.items():
            if name not in modules:
                raise SlimError(
                    f"{name}: not in this {type(model).__name__}; the plan cuts a module of that name. Build the same dense "
                    "network as at training"
                )
            check_fit(name, modules[name], entry)


def shapes_of(model: nn.Module) -> dict[str, list[int]]:
    """The shapes by which a plan knows its network: of parameters under all of their names, of buffers under one."""
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
    return {name: list(tensor.shape) for name, tensor in tensors}


def _module_plan(entry: dict[str, Any]) -> ModulePlan:
    keep = {leaf: {int(axis): kept for axis, kept in axes.items()} for leaf, axes in entry["keep"].items()}
    fold = entry["fold"]
    more = entry.get("grouped"), entry.get("ordered")
    return ModulePlan(keep, entry["attributes"], Fold(**fold) if fold else None, entry["becomes"], *more)


def _tensors(owner: Any, plan: ModulePlan) -> Iterator[tuple[str, Tensor | None, Tensor]]:
    """Name, dense and cut tensor of everything that a module's plan changes; the dense one is None where there was none."""
    new: dict[str, Tensor] = {}
    if plan.fold is not None:
        new.update([plan.fold.into_tensor(owner)])
    if plan.grouped is not None:
        new["weight"] = gathered(new.get("weight", owner.weight), plan.grouped)
    new.update((leaf, reordered(getattr(owner, leaf), order)) for leaf, order in (plan.ordered or {}).items())
    for leaf, axes in plan.keep.items():
        tensor = new[leaf] if leaf in new else getattr(owner, leaf)
        for axis, kept in axes.items():
            tensor = tensor.detach().index_select(axis, torch.tensor(kept, dtype=torch.long, device=tensor.device))
        new[leaf] = tensor
    for leaf, tensor in new.items():
        old = getattr(owner, leaf)
        tensor = tensor if old is None else laid_out_as(tensor, old)
        # A bias that a fold makes learns as its weight does.
        like = owner.weight if old is None else old
        learns = isinstance(like, nn.Parameter)
        yield leaf, old, nn.Parameter(tensor.detach(), requires_grad=like.requires_grad) if learns else tensor
