"""Every pattern of the list comes out exact, smaller where that is possible, and with a reason for all that stays.

One variety of each pattern is tested always, the others with `pytest -m slow`. A pattern with an `open` reason must fail:
when it comes out right, its test says so, and the reason is to be deleted. A pattern is traced and slimmed once for all
tests here.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pytest
import torch
from patterns import PATTERNS, Pattern
from patterns.compare import difference, parameters, run, tolerance
from patterns.open import OPEN
from torch import nn

from ssl_prune import SlimPlan, SlimResult, slim
from ssl_prune.errors import GraphError
from ssl_prune.graph import ChannelGraph, by_export
from ssl_prune.slimming.analysis import constants
from ssl_prune.slimming.analysis.liveness import liveness
from ssl_prune.slimming.modules.pruned_attention import CutAttention
from ssl_prune.slimming.modules.uneven_rnn import UnevenRecurrent
from ssl_prune.slimming.subject import Subject

# What is no number, such as zero times infinity, is an accident of the run; the proof sees it.
ACCIDENTS = ("zero_times_something_infinite",)


class Slimmed:
    """A pattern with its channel graph and its slim network, each made when it is first asked for."""

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.model, self.inputs = pattern.build()

    @cached_property
    def before(self) -> dict[str, tuple[Any, Any]]:
        return {name: (t, t.clone()) for name, t in self.model.state_dict(keep_vars=True).items()}

    @cached_property
    def graph(self) -> ChannelGraph | None:
        """None where `torch.export` refuses the network."""
        try:
            return by_export(self.model, self.inputs)
        except GraphError:
            return None

    @cached_property
    def result(self) -> SlimResult:
        self.before  # noqa: B018 - kept from before the cut
        return slim(self.model, self.inputs, graph=self.graph)


def cases() -> Iterator[object]:
    for pattern in PATTERNS:
        # On several workers the tests of one pattern go to the same one.
        marks = [pytest.mark.xdist_group(pattern.name), *([] if pattern.first else [pytest.mark.slow])]
        yield pytest.param(pattern, id=pattern.name, marks=marks)


@pytest.fixture(scope="module", params=list(cases()))
def slimmed(request: pytest.FixtureRequest) -> Slimmed:
    return Slimmed(request.param)


def same(one: list[object], other: list[object]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_names_are_unique_and_open_ones_exist():
    names = {pattern.name for pattern in PATTERNS}
    assert len(names) == len(PATTERNS)
    assert not {name for open_names in OPEN.values() for name in open_names} - names


def test_comes_out_exact(slimmed: Slimmed, request: pytest.FixtureRequest):
    pattern, model, inputs = slimmed.pattern, slimmed.model, slimmed.inputs
    if pattern.open:
        request.applymarker(pytest.mark.xfail(strict=True, reason=pattern.open))
    before, result = slimmed.before, slimmed.result

    now = model.state_dict(keep_vars=True)
    assert now.keys() == before.keys()
    assert all(now[name] is tensor and torch.equal(tensor, value) for name, (tensor, value) in before.items())

    allowed = tolerance(pattern.dtype)
    assert difference(model, result.model, inputs) <= allowed
    fewer = parameters(result.model) < parameters(model)
    if pattern.smaller:
        assert fewer, f"nothing went; the report says {result.report.kept}"
    else:
        assert fewer or result.report.kept, "nothing went, and the report gives no reason"

    fresh, _ = pattern.build()
    again = SlimPlan.from_json(result.plan.to_json()).apply(fresh)
    assert same(run(again, inputs), run(result.model, inputs))

    twice = slim(result.model, inputs)
    assert parameters(twice.model) == parameters(result.model)
    assert difference(result.model, twice.model, inputs) <= allowed


def left(model: nn.Module) -> Iterator[str]:
    """Layers with a zero row, column or scale, by the shapes of their tensors alone."""
    others = [name for name, module in model.named_modules() if isinstance(module, CutAttention | UnevenRecurrent)]
    for owner, module in model.named_modules():
        # The parts of what a layer became go by the name of the dense layer.
        owner = next((name for name in others if f"{owner}.".startswith(f"{name}.")), owner)
        if isinstance(module, nn.PReLU):
            continue
        for leaf, tensor in module._parameters.items():
            if tensor is None or not tensor.numel() or (tensor.dim() < 2 and "bias" in leaf):
                continue
            axes = range(min(tensor.dim(), 2)) if tensor.dim() else ()
            used = tensor != 0
            if any(
                not used.movedim(axis, 0).reshape(used.shape[axis], -1).any(1).all()
                for axis in axes
                if used.shape[axis] > 1
            ):
                yield owner.partition(".parametrizations.")[0] or leaf


def test_no_zero_structure_stays_without_a_reason(slimmed: Slimmed):
    try:
        result = slimmed.result
    except GraphError as error:
        if not slimmed.pattern.open:
            raise
        pytest.skip(f"refused: {error}")
    told = {kept.layer for kept in result.report.kept}
    assert {layer for layer in left(result.model) if layer not in told} == set()
    assert all(kept.count > 0 and kept.reason for kept in result.report.kept)


def test_constants_are_the_same_whether_products_that_vary_are_computed_or_not(
    slimmed: Slimmed, monkeypatch: pytest.MonkeyPatch
):
    if slimmed.pattern.name in ACCIDENTS or slimmed.graph is None:
        pytest.skip("an accident of the run" if slimmed.graph else "not traced")
    subject = Subject(slimmed.graph, slimmed.model, slimmed.inputs)
    monkeypatch.setattr(constants, "LARGE", -1)  # networks count as large
    quick = liveness(subject)
    monkeypatch.setattr(constants, "skipped", lambda *_: None)
    full = liveness(subject)
    assert torch.equal(quick.alive, full.alive)
    assert quick.values.output_varies == full.values.output_varies
    assert quick.values.constants.keys() == full.values.constants.keys()
    for place, wanted in full.values.channels.items():
        got = quick.values.channels[place]
        assert torch.equal(got.varies, wanted.varies)
        assert torch.equal(got.uniform, wanted.uniform)
        torch.testing.assert_close(got.constant, wanted.constant, rtol=1e-4, atol=1e-5)
