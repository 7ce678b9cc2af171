"""Random networks of random operators with random zeros: slim equals sparse, and slimming again changes nothing."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patterns.arbitrary import network
from torch.utils import _pytree as pytree

from ssl_prune import SlimPlan, slim


@st.composite
def networks(draw):
    return network(lambda options: draw(st.sampled_from(options)))


def outputs(net, x):
    with torch.no_grad():
        return pytree.tree_leaves(net(x))


def check(net, inputs, columns):
    result = slim(net, inputs(2), columns=columns, tolerance=1e-10)
    fresh = inputs(3)
    if fresh.is_floating_point():
        fresh = fresh * 2 + 1
    got = outputs(result.model, fresh)
    for wanted, found in zip(outputs(net, fresh), got, strict=True):
        assert (found - wanted).abs().max() <= 1e-9 * wanted.abs().max()
    again = outputs(SlimPlan.from_json(result.plan.to_json()).apply(net), fresh)
    assert all(torch.equal(one, other) for one, other in zip(got, again, strict=True))
    twice = slim(result.model, inputs(2), columns=columns, tolerance=1e-10)
    assert twice.report.params[1] == result.report.params[1]
    assert twice.plan.modules == {}


def some(number, **options):
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=number, suppress_health_check=checks, **options)


@some(10, derandomize=True)
@given(made=networks(), columns=st.booleans())
def test_slim_equals_sparse(made, columns):
    check(*made, columns)


@pytest.mark.slow
@some(1500, print_blob=True)
@given(made=networks(), columns=st.booleans())
def test_slim_equals_sparse_at_length(made, columns):
    check(*made, columns)
