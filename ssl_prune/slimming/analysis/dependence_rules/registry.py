"""Which rule says what of an operator's result depends on the input."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, fx

from ssl_prune.slimming.analysis.known import Known

__all__ = ["Call", "Rule", "always", "everything", "never", "nothing", "rule", "rule_for", "settle", "when_free"]


class Call(NamedTuple):
    """One operator of a concrete run.

    Args:
        node: its node in the program.
        value: its result, or several.
        args: its arguments, values as `Known`.
        kwargs: likewise.
        known: all values among the arguments, in order.
        free: the shape of everything it reads depends on parameters alone.
    """

    node: fx.Node
    value: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    known: list[Known]
    free: bool

    @property
    def target(self) -> Any:
        """The operator, to be run on masks."""
        return self.node.target

    @property
    def packet(self) -> Any:
        """The operator without its overload."""
        return getattr(self.node.target, "overloadpacket", self.node.target)


Condition = Callable[[Call], bool]
Mask = Callable[[Call], Any]
Function = TypeVar("Function", bound=Mask)


def always(call: Call) -> bool:
    """Whatever the arguments are."""
    return True


def never(call: Call) -> bool:
    """Whatever the arguments are, not."""
    return False


def when_free(call: Call) -> bool:
    """Where the sizes of all that is read depend on parameters alone."""
    return call.free


def everything(call: Call) -> Tensor:
    """All of the result may depend on the input."""
    return torch.ones((), dtype=torch.bool)


def nothing(call: Call) -> Tensor:
    """None of the result depends on the input."""
    return torch.zeros((), dtype=torch.bool)


@dataclass(frozen=True)
class Rule:
    """What is known of an operator.

    Args:
        mask: which elements of the result depend on the input, or a list of that for several results.
        settled: of arguments that do not depend on the input, neither does the result, however large the input is.
        deterministic: an operator that may draw random numbers draws none.
    """

    mask: Mask = everything
    settled: Condition = when_free
    deterministic: Condition = never


_RULES: dict[Any, Rule] = {}


def rule(
    *packets: Any, settled: Condition = when_free, deterministic: Condition = never
) -> Callable[[Function], Function]:
    """Register a function as the rule of some operators, each of which has one."""

    def register(function: Function) -> Function:
        for packet in packets:
            if packet in _RULES:
                raise ValueError(f"{packet}: has a rule already")
            _RULES[packet] = Rule(function, settled, deterministic)
        return function

    return register


def settle(*packets: Any) -> None:
    """Register operators of which only this is known: constants give constants, however large the input is."""
    rule(*packets, settled=always)(everything)


def rule_for(node: fx.Node) -> Rule:
    """The rule of a node's operator: its own, else that of pointwise operators, else that all of it varies."""
    found = _RULES.get(getattr(node.target, "overloadpacket", node.target))
    if found is not None:
        return found
    return _RULES["pointwise"] if torch.Tag.pointwise in getattr(node.target, "tags", ()) else Rule()
