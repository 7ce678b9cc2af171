"""The proof where there is no program: many inputs, every way through the Python code, and inner boundaries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError, first_line
from ssl_prune.graph.fallback.control_flow import Answer, Answers, explore
from ssl_prune.slimming.proof.differences import all_finite, finite_error, largest
from ssl_prune.slimming.proof.outputs import Proof, fresh_inputs, spread
from ssl_prune.utils.inputs import Inputs, evaluation, full_precision, leaves, map_tensors
from ssl_prune.utils.tensors import run_aside

__all__ = ["Trials", "trial_inputs", "watched"]


@dataclass(frozen=True)
class _Trial:
    what: str
    inputs: Inputs
    answers: tuple[Answer, ...]
    outputs: list[Tensor]
    inside: list[Tensor]


def trial_inputs(inputs: Inputs) -> list[tuple[str, Inputs]]:
    """The example, four fresh inputs like it, and four that are larger and shifted up or down.

    Example:
        >>> [what for what, _ in trial_inputs(torch.randn(2, 3))][3:6]
        ['fresh input 2', 'fresh input 3', 'large input 4']
    """
    fresh = [fresh_inputs(inputs, seed) for seed in range(8)]
    return [
        ("the example", inputs),
        *((f"fresh input {seed}", trial) for seed, trial in enumerate(fresh[:4])),
        *((f"large input {seed}", map_tensors(_farther((-1) ** seed), fresh[seed])) for seed in range(4, 8)),
    ]


def _farther(sign: int) -> Any:
    def move(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return torch.complex(move(tensor.real), move(tensor.imag))
        if not tensor.is_floating_point():
            return tensor
        return (tensor * 3 + sign * 2 * spread(tensor)[1]).to(tensor)

    return move


class Trials:
    """Runs a network on all trials once, to hold any number of cut ones against it.

    Args:
        model: the network before the cut; it is left as it was.
        inputs: the example.
        tolerance: allowed relative difference of the outputs.
        layers: names of convolutions and linear layers whose inputs are looked at.
        boundaries: names of modules whose outputs are compared too.

    Attributes:
        quiet: layer -> ``(I,)`` input channels that were exactly zero in every trial; layers that never ran are missing.

    Raises:
        SlimError: the outputs of `model` itself are not finite.
    """

    @full_precision()
    def __init__(
        self, model: nn.Module, inputs: Inputs, tolerance: float, layers: Iterable[str], boundaries: Sequence[str]
    ) -> None:
        self._tolerance, self._boundaries = tolerance, boundaries
        self._trials: list[_Trial] = []
        self._name = type(model).__name__
        with evaluation(model), watched(model, layers) as self.quiet:
            for what, trial in _that_run(model, trial_inputs(inputs), inputs):
                limit = 16 if what in ("the example", "large input 4") else 1
                exploration = explore(partial(self._run, model, trial), limit)
                for way, (answers, (outputs, inside)) in enumerate(exploration.ways):
                    if not all_finite(outputs) and way == 0 and not what.startswith("large"):
                        raise SlimError(
                            f"{self._name}: the network's own outputs are not finite on {what}, so nothing can be "
                            "compared. Look for NaN or infinite weights or statistics"
                        )
                    name = what if way == 0 else f"{what}, another way through the Python code"
                    self._trials.append(_Trial(name, trial, answers, outputs, inside))

    def __len__(self) -> int:
        """How many comparisons a check makes."""
        return len(self._trials)

    @full_precision()
    def check(self, cut: nn.Module) -> Proof:
        """Compare `cut` with the network: outputs, boundaries, and what its code learns when it asks a tensor."""
        worst = 0.0
        with evaluation(cut):
            for trial in self._trials:
                answers = Answers([a.value for a in trial.answers])
                try:
                    outputs, inside = self._run(cut, trial.inputs, answers)
                except Exception as error:
                    said = f"{type(error).__name__}: {first_line(error)}"
                    return Proof(math.inf, f"{trial.what}: the cut network raises {said}")
                if not self._same_answers(trial.answers, tuple(answers.taken)):
                    return Proof(math.inf, f"{trial.what}: the Python code of the cut network takes another way")
                for where, expected, got in (
                    ("outputs", trial.outputs, outputs),
                    ("inner values", trial.inside, inside),
                ):
                    if [t.shape for t in expected] != [t.shape for t in got]:
                        return Proof(math.inf, f"{trial.what}: {where} of other shapes")
                    error_here = largest(finite_error(e, g) for e, g in zip(expected, got, strict=True))
                    worst = largest((worst, error_here))
                    if not error_here <= self._tolerance:  # NaN is no number that is allowed
                        return Proof(worst, f"{trial.what}: {where} differ by {error_here:.2e} of their size")
        return Proof(worst, None)

    def _run(self, model: nn.Module, inputs: Inputs, answers: Answers) -> tuple[list[Tensor], list[Tensor]]:
        inside: list[Tensor] = []
        with ExitStack() as stack:
            for name in self._boundaries:
                module = model.get_submodule(name)
                hook = module.register_forward_hook(lambda _m, _i, out: inside.extend(t.clone() for t in leaves(out)))
                stack.callback(hook.remove)
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(answers)
            output = run_aside(model, inputs)
        return [t.detach().clone() for t in leaves(output)], inside

    def _same_answers(self, expected: tuple[Answer, ...], got: tuple[Answer, ...]) -> bool:
        def close(a: float, b: float) -> bool:
            if isinstance(a, float) and math.isfinite(a):
                return abs(a - b) <= self._tolerance * max(1.0, abs(a))
            return a == b or (a != a and b != b)

        return len(expected) == len(got) and all(
            close(a.natural, b.natural) for a, b in zip(expected, got, strict=True)
        )


@contextmanager
def watched(model: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """While `model` runs, layer -> ``(I,)`` input channels that have been exactly zero so far.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3))
        >>> with watched(net, ["0"]) as quiet:
        ...     _ = net(torch.tensor([[0.0, 1.0]]))
        >>> quiet
        {'0': tensor([ True, False])}
    """
    found: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not inputs or not isinstance(inputs[0], Tensor):
            quiet = torch.zeros(0, dtype=torch.bool)  # called in a way that is not looked at
        else:
            value = inputs[0].detach()
            axis = -1 if isinstance(module, nn.Linear) else value.dim() - 1 - len(getattr(module, "kernel_size", ()))
            quiet = (value.movedim(axis, 0).flatten(1) == 0).all(1).cpu()
        before = found.get(name, quiet)
        found[name] = before & quiet if before.shape == quiet.shape else torch.zeros(0, dtype=torch.bool)

    with ExitStack() as stack:
        for name in layers:
            hook = model.get_submodule(name).register_forward_pre_hook(lambda m, args, name=name: watch(name, m, args))
            stack.callback(hook.remove)
        yield found


def _that_run(model: nn.Module, trials: list[tuple[str, Inputs]], inputs: Inputs) -> Iterator[tuple[str, Inputs]]:
    """The example; of the others those that the network takes; and twice the batch."""
    rest = iter(leaves(trials[1][1]))
    doubled = map_tensors(lambda t: torch.cat([t, next(rest)]) if t.dim() else next(rest), inputs)
    yield trials[0]
    for what, trial in [*trials[1:], ("twice the batch", doubled)]:
        try:
            with torch.random.fork_rng(devices=[]):
                run_aside(model, trial)
        except Exception:  # an input out of its domain, or a network of one batch size only
            continue
        yield what, trial
