"""A plan: what each module keeps, axis by axis, and what it becomes. Data only, and enough to cut a fresh network."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.slimming.modules.replacements import replacement
from ssl_prune.slimming.plan.constant_folding import Fold, gathered
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
        becomes: {"kind": "Identity"}, {"kind": "Blank", "steps"}, {"kind": "Constant", "values", "dims", "whole"}, {"kind": "Columns", "columns"} or
            {"kind": "Cropped", "frame", "mode", "channels"}; {"kind": "Uneven"} is a recurrent layer whose tensors have
            several widths after the cut, {"kind": "Attention", "sizes", "heads"} an `nn.MultiheadAttention` with the rows
            left of each projection and the heads, {"kind": "Plain"} a layer with the weight that it computed.
    """

    keep: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    fold: Fold | None = None
    becomes: dict[str, Any] | None = None
    grouped: dict[str, Any] | None = None

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

    def to_json(self) -> str:
        """The plan as JSON text."""
        data = asdict(self)
        if self.then is None:
            del data["then"]
        return json.dumps({"format": 1 if self.then is None else FORMAT, **data}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "SlimPlan":
        """The plan that `to_json` wrote.

        Args:
            text: of any version up to this one.

        Raises:
            SlimError: not a plan, or one of a newer format.
        """
        try:
            data = json.loads(text)
            number = data["format"]
            if not isinstance(number, int) or number > FORMAT:
                raise SlimError(
                    f"plan format {number!r}: this version reads up to {FORMAT}; install a newer version of ssl-prune"
                )
            return cls._from_data(data)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise SlimError(
                f"not a slim plan: {type(error).__name__}: {error}; expected the text that to_json() wrote"
            ) from error

    @classmethod
    def _from_data(cls, data: dict[str, Any]) -> "SlimPlan":
        modules = {name: _module_plan(entry) for name, entry in data["modules"].items()}
        then = cls._from_data(data["then"]) if data.get("then") else None
        return cls(modules, {name: list(shape) for name, shape in data["shapes"].items()}, then)

    def apply(self, model: nn.Module, *, inplace: bool = False, shared: bool = False) -> nn.Module:
        """`model` cut to the plan; needs no example input and no tracing.

        Args:
            model: a network of the architecture and the widths that the plan was made for.
            inplace: cut `model` itself instead of a copy.
            shared: the copy has the very tensors of `model` where nothing is cut: enough to look at it.

        Raises:
            SlimError: a tensor is missing or of another shape; `model` is not touched then.
        """
        self.check(model)
        if inplace and self.then is not None:
            self.apply(model, shared=True)  # what the second step finds is known only after the first: try it aside
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
        return model if self.then is None else self.then.apply(model, inplace=True)

    def followed_by(self, later: "SlimPlan") -> "SlimPlan":
        """This plan, and a later one for the network that it leaves, as one plan.

        Two plans that only choose channels become one; else the later one is the last step.
        """
        if self.then is not None:
            return replace(self, then=self.then.followed_by(later))
        if later.then is not None or not (self._only_chooses and later._only_chooses):
            return replace(self, then=later)
        modules = dict(self.modules)
        for name, second in later.modules.items():
            modules[name] = modules[name].followed_by(second) if name in modules else second
        return SlimPlan(modules, self.shapes)

    @property
    def _only_chooses(self) -> bool:
        return not any(m.fold or m.becomes or m.grouped for m in self.modules.values())

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
        """Refuse a network of other widths than the plan was made for.

        Args:
            model: the dense network.

        Raises:
            SlimError: a tensor or module is missing, or a tensor has another shape.
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
        for name in self.modules:
            if name not in modules:
                raise SlimError(
                    f"{name}: not in this {type(model).__name__}; the plan cuts a module of that name. Build the same dense "
                    "network as at training"
                )


def shapes_of(model: nn.Module) -> dict[str, list[int]]:
    """The shapes by which a plan knows its network: of parameters under all of their names, of buffers under one."""
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
    return {name: list(tensor.shape) for name, tensor in tensors}


def _module_plan(entry: dict[str, Any]) -> ModulePlan:
    keep = {leaf: {int(axis): list(kept) for axis, kept in axes.items()} for leaf, axes in entry["keep"].items()}
    fold = entry["fold"]
    return ModulePlan(
        keep, dict(entry["attributes"]), Fold(**fold) if fold else None, entry["becomes"], entry.get("grouped")
    )


def _tensors(owner: Any, plan: ModulePlan) -> Iterator[tuple[str, Tensor | None, Tensor]]:
    """Name, dense and cut tensor of everything that a module's plan changes; the dense one is None where there was none."""
    new: dict[str, Tensor] = {}
    if plan.fold is not None:
        new.update([plan.fold.into_tensor(owner)])
    if plan.grouped is not None:
        new["weight"] = gathered(new.get("weight", owner.weight), plan.grouped)
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
