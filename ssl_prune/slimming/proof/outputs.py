"""The proof: the slim network and the sparse one are run on several inputs and their outputs compared."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError, first_line
from ssl_prune.slimming.proof.differences import all_finite, largest, relative_error
from ssl_prune.utils.inputs import Inputs, evaluation, full_precision, leaves, map_tensors
from ssl_prune.utils.tensors import Aside

__all__ = ["Expected", "Proof", "fresh_inputs", "spread", "verify"]


@dataclass(frozen=True)
class Proof:
    """What the comparison found.

    Args:
        max_error: largest relative difference over all checks.
        failure: what went wrong, or None.
    """

    max_error: float
    failure: str | None

    @property
    def holds(self) -> bool:
        """No check failed."""
        return self.failure is None


def spread(tensor: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the finite entries of a real tensor, 0 and 1 where there are none; never 0 wide.

    Example:
        >>> spread(torch.tensor([1.0, 3.0, -torch.inf]))
        (2.0, 1.0)
    """
    known = tensor[tensor.isfinite()].double()
    return (known.mean().item(), known.std(correction=0).item() or 1.0) if known.numel() else (0.0, 1.0)


def fresh_inputs(inputs: Inputs, seed: int, *, integers: bool = True) -> Inputs:
    """Inputs of the same shapes and types: normal with the example's mean and spread, integers within its range.

    Entries that are not finite, as of a mask to be added, stay as they are; so do integers, if asked for.
    """

    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return torch.complex(draw(tensor.real), draw(tensor.imag))
        if tensor.is_floating_point():
            mean, wide = spread(tensor)
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * wide + mean
            return torch.where(tensor.isfinite(), noise.to(tensor), tensor)
        if tensor.dtype == torch.bool or not tensor.numel() or not integers:
            return tensor
        low, high = int(tensor.min()), int(tensor.max())
        return torch.randint(low, high + 1, tensor.shape, generator=generator).to(tensor)

    return map_tensors(draw, inputs)


class Expected:
    """Trial inputs and the outputs of the network before a cut, each computed when it is first asked for, then kept.

    Args:
        sparse: the network before the cut.
        inputs: the example.
        slow: a run takes so long that there should be few; see `is_large`.

    Attributes:
        taken: how many runs were compared with these outputs so far.
    """

    def __init__(self, sparse: nn.Module, inputs: Inputs, slow: bool = False) -> None:
        self._sparse, self._inputs, self.slow, self.taken = sparse, inputs, slow, 0
        self._known: list[tuple[str, Inputs, list[Tensor]]] = []
        self._rest = self._trials()

    def __iter__(self) -> Iterator[tuple[str, Inputs, list[Tensor]]]:
        place = 0
        while True:
            if place == len(self._known):
                try:
                    self._known.append(next(self._rest))
                except StopIteration:
                    return
                except BaseException:
                    self._known.clear()  # a generator that raised is at its end
                    self._rest = self._trials()
                    raise
            self.taken += 1
            yield self._known[place]
            place += 1

    def _trials(self) -> Iterator[tuple[str, Inputs, list[Tensor]]]:
        """What is compared, the inputs, and the outputs of the network on them."""
        run, inputs = Aside(self._sparse), self._inputs
        if self.slow:
            yield from _slow_trials(run, inputs)
            return
        yield "the example", inputs, leaves(run(inputs))
        for seed in range(3):
            fresh, outputs = _fresh(run, inputs, seed)
            yield f"fresh input {seed}", fresh, outputs
        for what, trial in (("twice the batch", _batch(inputs, fresh_inputs(inputs, 3))), *_other_sizes(inputs, _next)):
            taken = _taken(run, trial)
            if taken is not None:
                yield what, trial, taken


@full_precision()
def verify(
    sparse: nn.Module, slim: nn.Module, inputs: Inputs, tolerance: float, expected: Expected | None = None
) -> Proof:
    """Compare outputs on the example, on fresh inputs, and on another batch and input size where `sparse` takes one.

    A network whose runs take long is run less often, as `expected` says: on the example and on two fresh inputs of another
    size in one batch, or on the example and a fresh input in one batch.

    Args:
        sparse: the network before the cut.
        slim: the network after it.
        inputs: the example.
        tolerance: allowed `relative_error`.
        expected: what `sparse` yields, to be shared between cuts of one network.

    Raises:
        SlimError: the outputs of `sparse` itself are not finite.
    """
    worst = 0.0
    with evaluation(sparse), evaluation(slim):
        run = Aside(slim)
        for what, trial, wanted in expected or Expected(sparse, inputs):
            if not all_finite(wanted):
                raise SlimError(
                    f"{type(sparse).__name__}: the network's own outputs are not finite on {what}, so nothing can be "
                    "compared. Look for NaN or infinite weights or statistics"
                )
            try:
                got = leaves(run(trial))
            except Exception as error:
                return Proof(math.inf, f"{what}: the cut network raises {type(error).__name__}: {first_line(error)}")
            if [t.shape for t in wanted] != [t.shape for t in got]:
                return Proof(
                    math.inf,
                    f"{what}: output shapes {[tuple(t.shape) for t in got]} instead of {[tuple(t.shape) for t in wanted]}",
                )
            error_here = largest(relative_error(e, g) for e, g in zip(wanted, got, strict=True))
            worst = largest((worst, error_here))
            if not error_here <= tolerance:  # NaN is no number that is allowed
                return Proof(worst, f"{what}: outputs differ by {error_here:.2e} of their size")
    return Proof(worst, None)


def _slow_trials(run: Aside, inputs: Inputs) -> Iterator[tuple[str, Inputs, list[Tensor]]]:
    """The example and two fresh inputs of another, smaller size in one batch, or a batch of the example and a fresh one.

    Each of the trials shows several things at once.
    """
    for what, smaller in _other_sizes(inputs, _half):
        pair = _batch(smaller, fresh_inputs(smaller, 3))
        outputs = _taken(run, pair)
        if outputs is not None:
            yield "the example", inputs, leaves(run(inputs))
            yield f"a batch of {what}", pair, outputs
            return
    fresh = fresh_inputs(inputs, 0)
    pair = _batch(inputs, fresh)
    outputs = _taken(run, pair)
    if outputs is not None:
        yield "the example and a fresh input in one batch", pair, outputs
        return
    yield "the example", inputs, leaves(run(inputs))
    fresh, outputs = _fresh(run, inputs, 0)
    yield "fresh input 0", fresh, outputs


def _fresh(run: Aside, inputs: Inputs, seed: int) -> tuple[Inputs, list[Tensor]]:
    """Fresh inputs and what a network makes of them."""
    fresh = fresh_inputs(inputs, seed)
    try:
        return fresh, leaves(run(fresh))
    except Exception:  # integers may depend on each other, as the corners of a box do
        fresh = fresh_inputs(inputs, seed, integers=False)
    try:
        return fresh, leaves(run(fresh))
    except Exception as error:
        raise SlimError(
            f"{type(run.model).__name__}: the network does not take other inputs of the example's shapes, so nothing can be compared: "
            f"{type(error).__name__}: {first_line(error)}. Give an example whose values lie well inside of what it takes"
        ) from error


def _taken(run: Aside, trial: Inputs) -> list[Tensor] | None:
    """Outputs of a network on inputs of another size; None where it does not take them."""
    try:
        outputs = leaves(run(trial))
    except Exception:  # a network of one batch size, or of one input size
        return None
    return outputs if all_finite(outputs) else None


def _batch(first: Inputs, second: Inputs) -> Inputs:
    """Both in one batch; of what has no batch axis the second's."""
    others = iter(leaves(second))
    return map_tensors(lambda t: torch.cat([t, next(others)]) if t.dim() else next(others), first)


def _next(size: int) -> int:
    """The next size that is as even, up to 32: networks halve their images."""
    return size + min(size & -size, 32)


def _half(size: int) -> int:
    """About half the size, as even."""
    step = min(size & -size, 32)
    return max(1, -(-size // 2 // step)) * step


def _other_sizes(inputs: Inputs, change: Callable[[int], int]) -> Iterator[tuple[str, Inputs]]:
    """Fresh inputs of another size along some axes: images along all of theirs, sequences along one."""
    for what, axes in (("another image size", (2, 3, 4)), ("another length", (1,)), ("another length", (2,))):
        other = _resized(inputs, axes, change)
        if other is not None:
            yield what, other


def _resized(inputs: Inputs, axes: tuple[int, ...], change: Callable[[int], int]) -> Inputs | None:
    """None if there is no input with such axes, or none of another size."""
    images = axes != (1,) and len(axes) > 1
    changed = False

    def resize(tensor: Tensor) -> Tensor:
        nonlocal changed
        if (tensor.dim() > 3) != images or tensor.dim() <= axes[0]:
            return tensor
        for axis in axes:
            if axis < tensor.dim() and tensor.shape[axis]:
                size = change(tensor.shape[axis])
                changed = changed or size != tensor.shape[axis]
                tensor = torch.cat([tensor] * -(-size // tensor.shape[axis]), axis).narrow(axis, 0, size)
        return tensor

    other = map_tensors(resize, inputs)
    return fresh_inputs(other, 4) if changed else None
