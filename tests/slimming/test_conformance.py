"""Every pattern of the conformance list comes out exact, and smaller where that is possible.

One variety of each pattern is tested always, the others with `pytest -m slow`. A pattern with an `open` reason must fail:
when it comes out right, its test says so, and the reason is to be deleted.
"""

from collections.abc import Iterator

import pytest
import torch
from patterns import PATTERNS, Pattern
from patterns.compare import difference, parameters, run, tolerance
from patterns.open import OPEN

from ssl_prune import SlimPlan, slim


def cases() -> Iterator[object]:
    for pattern in PATTERNS:
        marks = [] if pattern.first else [pytest.mark.slow]
        if pattern.open:
            marks.append(pytest.mark.xfail(strict=True, reason=pattern.open))
        yield pytest.param(pattern, id=pattern.name, marks=marks)


def same(one: list[object], other: list[object]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_names_are_unique_and_open_ones_exist():
    names = {pattern.name for pattern in PATTERNS}
    assert len(names) == len(PATTERNS)
    assert not {name for open_names in OPEN.values() for name in open_names} - names


@pytest.mark.parametrize("pattern", list(cases()))
def test_comes_out_exact(pattern: Pattern):
    model, inputs = pattern.build()
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    result = slim(model, inputs)

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
