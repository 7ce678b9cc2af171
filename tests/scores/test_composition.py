"""Scores that see a context, and sums of scores."""

import pytest
import torch
from torch import nn

from ssl_prune.groups import partition
from ssl_prune.scores import (
    Gradient,
    InitialMagnitude,
    LayerwiseRank,
    Magnitude,
    Movement,
    ScoreContext,
    SecondOrder,
    Sum,
    TaylorGroup,
)
from ssl_prune.shrinking import Source, carry

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def like(net, seed):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=draw) for name, p in net.named_parameters()}


def by_hand(groups, tensors):
    """The norm of each group, entry by entry."""
    total = torch.zeros(groups.num_groups, dtype=torch.float64)
    start = 0
    for member in groups.members:
        if member.index is None:
            index = torch.arange(start, start + member.param.numel()).view(member.param.shape)
            start += member.param.numel()
        else:
            index = member.index.expand(member.param.shape)
        total.index_add_(0, index.reshape(-1), tensors[member.name].detach().double().reshape(-1).square())
    return total.sqrt().float()


@pytest.mark.parametrize("granularity", ["weight", "neuron", "coupled"])
def test_each_is_what_it_says(granularity):
    net = made()
    groups = partition(net, granularity, example_inputs=X[:1])
    task, buffer, initial = like(net, 1), like(net, 2), like(net, 3)
    curvature = {name: value.abs() for name, value in like(net, 4).items()}
    context = ScoreContext(initial, {"task": task, "buffer": buffer}, curvature)
    now = dict(net.named_parameters())
    parts = {
        Magnitude(): by_hand(groups, now),
        Gradient("task"): by_hand(groups, task),
        Gradient("buffer"): by_hand(groups, buffer),
        InitialMagnitude(): by_hand(groups, initial),
        Movement(): by_hand(groups, {name: now[name] - initial[name] for name in now}),
        SecondOrder(): 0.5 * by_hand(groups, {n: curvature[n].sqrt() * now[n] for n in now}).square(),
    }
    whole, expected = Sum(list(parts), [1.0, 0.5, -2.0, 0.3, 1.5, 4.0]), torch.zeros(groups.num_groups)
    for weight, (score, found) in zip([1.0, 0.5, -2.0, 0.3, 1.5, 4.0], parts.items(), strict=True):
        score.bind(groups, context=context)
        torch.testing.assert_close(score.values(), found)
        expected += weight * found
    whole.bind(groups, context=context)
    torch.testing.assert_close(whole.values(), expected, rtol=1e-4, atol=1e-5)
    task["0.weight"].zero_()  # the context is read anew
    score = Gradient("task")
    score.bind(groups, context=context)
    torch.testing.assert_close(score.values(), by_hand(groups, task))


def test_arithmetic_is_a_sum():
    a, b = Magnitude(), Movement()
    assert (a + 0.5 * b).terms == {a: 1.0, b: 0.5}
    assert (2 * (a + b) - b * 3).terms == {a: 2.0, b: -1.0}
    assert (-a).terms == {a: -1.0}
    assert (a + a).terms == {a: 2.0}  # which looks at a step once
    for wrong in (lambda: a + 1, lambda: a * b, lambda: a - "b"):
        with pytest.raises(TypeError, match="unsupported operand"):
            wrong()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Sum([]), ValueError, "expected scores and a weight for each, got 0 and 0"),
        (lambda: Sum([Magnitude()], [1.0, 2.0]), ValueError, "got 1 and 2"),
        (lambda: Sum([Magnitude()], [float("nan")]), ValueError, "each of weights must be a finite number, got nan"),
        (lambda: Sum(Magnitude()), TypeError, "expected a list of scores"),
        (lambda: Sum(["magnitude"]), TypeError, "must be scores of ssl_prune.scores, got 'magnitude'"),
    ],
)
def test_what_is_no_sum_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_gradients_of_the_last_backward():
    net = made()
    groups, score = partition(net, "weight"), Gradient()
    score.bind(groups)
    with pytest.raises(RuntimeError, match="have no gradient; ask after backward and before zero_grad"):
        score.values()
    net(X).square().mean().backward()
    expected = torch.cat([m.param.grad.abs().reshape(-1) for m in groups.members])
    assert torch.equal(score.values(), expected)  # to the bit: the largest are the largest


@pytest.mark.parametrize(
    ("score", "context", "message"),
    [
        (
            Gradient("task"),
            ScoreContext(gradients={"loss": {}}),
            r'Gradient\("task"\): the context has the gradients loss',
        ),
        (Gradient("task"), ScoreContext(gradients={"task": {}}), "none is given for 0.weight"),
        (SecondOrder(), None, "SecondOrder: curvature: none is given for 0.weight"),
        (
            Movement(),
            ScoreContext(initial={"0.weight": torch.zeros(3, 4)}),
            r"the shape \(3, 4\) here, expected \(6, 4\)",
        ),
    ],
)
def test_a_context_that_lacks_something_is_refused(score, context, message):
    score.bind(partition(made(), "neuron"), context=context)
    with pytest.raises(ValueError, match=message):
        score.values()


def test_a_loss_that_does_not_reach_a_parameter_says_nothing_of_it():
    net = made()
    groups, score = partition(net, "weight"), Gradient("task")
    score.bind(groups, context=ScoreContext(gradients={"task": {**like(net, 1), "2.weight": None}}))
    assert not score.values()[groups.layer == 1].any()
    assert score.values()[groups.layer == 0].all()


@pytest.mark.parametrize("make", [Movement, InitialMagnitude, lambda: Movement() + 0.5 * TaylorGroup()])
def test_a_state_goes_on_where_it_was(make):
    whole, halves, scores = made(), made(), (make(), make())
    for net, score in zip((whole, halves), scores, strict=True):
        score.bind(partition(net, "neuron"))
        for _ in range(2):
            net.zero_grad()
            net(X).square().mean().backward()
            with torch.no_grad():
                for p in net.parameters():
                    p -= p.grad
            score.update()
    again = make()
    again.bind(partition(halves, "neuron"))  # of the weights as they are now
    again.load_state_dict(scores[1].state_dict())
    torch.testing.assert_close(again.values(), scores[0].values())
    assert scores[0].values().any()


def test_a_state_of_other_scores_is_refused():
    score = Magnitude() + Movement()
    score.bind(partition(made(), "neuron"))
    with pytest.raises(ValueError, match="the state is of 1 scores, expected 2"):
        score.load_state_dict({"terms": [{}]})


def test_the_context_reaches_every_score_inside_and_goes_on_after_a_cut():
    net = made()
    first, second = like(net, 1), like(net, 2)
    score = LayerwiseRank(Magnitude() + Movement())
    groups = partition(net, "neuron")
    score.bind(groups, context=ScoreContext(initial=first))
    before = score.values()
    score.rebind(groups)
    assert torch.equal(score.values(), before)
    score.rebind(groups, context=ScoreContext(initial=second))
    plain = Magnitude() + Movement()
    plain.bind(groups, context=ScoreContext(initial=second))
    for layer in (0, 1):
        here = groups.layer == layer
        assert torch.equal(score.score.values()[here], plain.values()[here])


@pytest.mark.parametrize("score", [Movement(), Magnitude() - 2 * InitialMagnitude()], ids=["movement", "a sum"])
def test_initial_weights_follow_a_cut(score):
    net, smaller = made(), nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    groups = partition(net, "filter", example_inputs=X)
    score.bind(groups)
    rows = [0, 2, 5]
    with torch.no_grad():
        net[0].weight.add_(torch.randn(6, 4))
        smaller[0].weight.copy_(net[0].weight[rows])
    before = score.values()
    origin = {
        "0.weight": Source("0.weight", torch.Size([6, 4]), torch.arange(24).view(6, 4)[rows]),
        "0.bias": Source("0.bias", torch.Size([6]), torch.tensor(rows)),
    }
    score.rebind(carry(groups, origin, smaller), origin=origin)
    torch.testing.assert_close(score.values()[rows], before[rows])


@pytest.mark.parametrize(
    ("score", "needs"),
    [
        (Magnitude() + Movement() + Gradient() - InitialMagnitude(), ()),
        (Gradient("task"), ('Gradient("task"): gradients["task"]',)),
        (Magnitude() + 0.5 * SecondOrder(), ("SecondOrder: curvature",)),
        (LayerwiseRank(Gradient("a") + SecondOrder()), ('Gradient("a"): gradients["a"]', "SecondOrder: curvature")),
    ],
)
def test_what_a_score_needs_of_a_context_is_what_it_cannot_do_without(score, needs):
    assert score.needs == needs
    net = made()
    groups = partition(net, "neuron")
    net(X).sum().backward()
    score.bind(groups)
    if needs:
        with pytest.raises(ValueError, match="ScoreContext"):
            score.values()
    else:
        assert score.values().isfinite().all()
