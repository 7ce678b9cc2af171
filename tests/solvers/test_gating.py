"""Gates: the optimum of the smooth problem is that of the group lasso, whatever steps it; nothing of them is seen outside."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer

from ssl_prune.groups import Member, Partition
from ssl_prune.penalties import L1, GroupLasso
from ssl_prune.solvers import GatedSolver, ProximalSolver

ROWS = 5


class Problem:
    """Least squares in float64; a group is a row of ``w`` (5, 3) with an entry of ``v`` (5)."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.a = torch.randn(60, ROWS * 4, generator=generator, dtype=torch.float64)
        truth = torch.randn(ROWS, 4, generator=generator, dtype=torch.float64)
        truth[[1, 3]] = 0
        self.b = self.a @ truth.flatten() + 0.5 * torch.randn(60, generator=generator, dtype=torch.float64)
        self.w = nn.Parameter(torch.randn(ROWS, 3, generator=generator, dtype=torch.float64))
        self.v = nn.Parameter(torch.zeros(ROWS, dtype=torch.float64))
        rows = torch.arange(ROWS)
        members = [Member("w.weight", self.w, rows[:, None]), Member("w.bias", self.v, rows)]
        self.groups = Partition(members, ("w",), torch.zeros(ROWS, dtype=torch.long), "row")

    @property
    def params(self) -> list[nn.Parameter]:
        return [self.w, self.v]

    def loss(self, w: Tensor | None = None, v: Tensor | None = None) -> Tensor:
        whole = torch.cat([self.w if w is None else w, (self.v if v is None else v)[:, None]], 1)
        return (self.a @ whole.flatten() - self.b).square().mean() / 2

    def flat(self) -> Tensor:
        return torch.cat([self.w.detach().flatten(), self.v.detach()])

    def run(self, optimizer: Optimizer, steps: int) -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        for _ in range(steps):
            if isinstance(optimizer, LBFGS):
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()


@pytest.fixture(scope="module")
def lasso() -> Tensor:
    """The minimum, by the proximal solver."""
    problem = Problem()
    sgd = SGD(problem.params, lr=0.2)
    ProximalSolver(problem.groups, GroupLasso("sqrt"), 0.25).attach(sgd)
    problem.run(sgd, 500)
    return problem.flat()


def lbfgs(params: list[nn.Parameter]) -> LBFGS:
    return LBFGS(params, lr=1.0, max_iter=40, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-14)


@pytest.mark.parametrize(
    ("build", "steps"),
    [
        (lambda params: SGD(params, lr=0.1, momentum=0.8), 500),
        (lambda params: Adam(params, lr=0.01), 1500),
        (lbfgs, 15),
        (lambda params: LBFGS(params, lr=0.5, max_iter=10), 40),
    ],
    ids=["sgd", "adam", "lbfgs, wolfe", "lbfgs"],
)
def test_two_factors_come_to_the_group_lasso(lasso: Tensor, build, steps: int) -> None:
    problem = Problem()
    optimizer = build(problem.params)
    solver = GatedSolver(problem.groups, GroupLasso("sqrt"), 0.25)
    solver.attach(optimizer)
    problem.run(optimizer, steps)
    torch.testing.assert_close(problem.flat(), lasso, atol=2e-4, rtol=0)
    assert torch.equal(problem.flat() == 0, lasso == 0)
    assert 0 < int((~problem.groups.alive()).sum()) < ROWS
    assert solver.step_count == steps


def test_closures_of_any_optimizer_and_steps_without_one_are_the_same() -> None:
    found = []
    for way in ("keyword", "positional", "without"):
        problem = Problem()
        adam = Adam(problem.params, lr=0.01)
        GatedSolver(problem.groups, GroupLasso(), 0.3).attach(adam)

        def closure(problem: Problem = problem, adam: Adam = adam) -> Tensor:
            adam.zero_grad()
            loss = problem.loss()
            loss.backward()
            return loss

        for _ in range(30):
            if way == "without":
                closure()
            step = {"keyword": lambda: adam.step(closure=closure), "positional": lambda: adam.step(closure)}  # noqa: B023
            step.get(way, adam.step)()
        found.append(problem.flat())
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[2], atol=1e-12, rtol=0)


@pytest.mark.parametrize("factors", [2, 3, 4])
@pytest.mark.parametrize(
    "build",
    [
        lambda p: SGD(p, lr=0.05, momentum=0.9),
        lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
        lambda p: LBFGS(p, lr=0.5),
    ],
    ids=["sgd", "adamw", "lbfgs"],
)
def test_it_is_training_of_the_factors_by_hand(factors: int, build) -> None:
    """With the factors as parameters, autograd through their product, and squares in the loss."""
    gated, by_hand = Problem(), Problem()
    optimizer = build(gated.params)
    GatedSolver(gated.groups, GroupLasso(), 0.2, factors=factors, threshold=0.0).attach(optimizer)
    gated.run(optimizer, 15)

    size = torch.cat([by_hand.w, by_hand.v[:, None]], 1).norm(dim=1).detach() ** (1 / factors)
    gates = nn.Parameter(size.expand(factors - 1, -1).clone())
    omega = nn.Parameter(by_hand.w.detach() / gates.detach().prod(0)[:, None])
    shift = nn.Parameter(by_hand.v.detach() / gates.detach().prod(0))
    other = build([omega, shift, gates])

    def closure() -> Tensor:
        other.zero_grad()
        product = gates.prod(0)
        squares = sum(t.square().sum() for t in (omega, shift, gates))
        loss = by_hand.loss(omega * product[:, None], shift * product) + 0.2 / factors * squares
        loss.backward()
        return loss

    for _ in range(15):
        other.step(closure)
    product = gates.prod(0)
    torch.testing.assert_close(gated.w, omega * product[:, None], atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(gated.v, shift * product, atol=1e-7, rtol=1e-6)


def test_more_factors_make_a_penalty_that_is_not_convex() -> None:
    """At the end ``grad + strength (2 / D) ||w||^(2/D - 2) w = 0`` in every group that lives."""
    problem = Problem()
    sgd = SGD(problem.params, lr=0.1)
    GatedSolver(problem.groups, GroupLasso(), 0.3, factors=3).attach(sgd)
    problem.run(sgd, 1500)
    gradients = torch.autograd.grad(problem.loss(), problem.params)
    norms = problem.groups.norms()
    pull = torch.where(norms == 0, 0, 0.3 * 2 / 3 * norms ** (2 / 3 - 2))
    for gradient, member, laid in zip(gradients, problem.groups.members, problem.groups.expand(pull), strict=True):
        alive = (problem.groups.expand(norms)[0].squeeze() > 0) if gradient.dim() > 1 else norms > 0
        torch.testing.assert_close(
            (gradient + laid * member.param)[alive], torch.zeros_like(gradient[alive]), atol=1e-6, rtol=0
        )
    assert 0 < int((norms == 0).sum()) < ROWS


def test_between_steps_nothing_is_seen_of_the_gates() -> None:
    problem = Problem()
    adam = Adam(problem.params, lr=0.01)
    before = adam.state_dict()["param_groups"]
    solver = GatedSolver(problem.groups, GroupLasso(), 0.3)
    solver.attach(adam)
    gradients = []
    adam.register_step_pre_hook(lambda *_: gradients.append(problem.w.grad.clone()))
    for _ in range(5):
        adam.zero_grad()
        problem.loss().backward()
        own = problem.w.grad.clone()
        adam.step()
        assert torch.equal(problem.w.grad, own)
        assert not torch.equal(gradients[-1], own)  # the optimizer's are those of the factors
    assert adam.state_dict()["param_groups"] == before
    assert set(adam.state) == set(problem.params)


@pytest.mark.parametrize(
    "build", [lambda p: Adam(p, lr=0.02), lambda p: SGD(p, lr=0.1, momentum=0.9), lbfgs], ids=["adam", "sgd", "lbfgs"]
)
@pytest.mark.parametrize("stop", [1, 9])
def test_a_resumed_run_is_the_same(build, stop: int) -> None:
    options = {"factors": 3, "freeze_at": 14}
    whole = Problem()
    optimizer = build(whole.params)
    GatedSolver(whole.groups, GroupLasso(), 0.3, **options).attach(optimizer)
    whole.run(optimizer, stop)
    first = Problem()
    first.w.data.copy_(whole.w.data)
    first.v.data.copy_(whole.v.data)

    again, half = Problem(), Problem()
    optimizer_half = build(half.params)
    solver = GatedSolver(half.groups, GroupLasso(), 0.3, **options)
    solver.attach(optimizer_half)
    half.run(optimizer_half, stop)
    saved = solver.state_dict(), optimizer_half.state_dict(), [p.detach().clone() for p in half.params]
    whole.run(optimizer, 20 - stop)

    for param, value in zip(again.params, saved[2], strict=True):
        param.data.copy_(value)
    resumed = build(again.params)
    resumed.load_state_dict(saved[1])
    solver = GatedSolver(again.groups, GroupLasso(), 0.3, **options)
    solver.load_state_dict(saved[0])
    solver.attach(resumed)
    again.run(resumed, 20 - stop)
    assert torch.equal(again.flat(), whole.flat())


def test_without_a_strength_the_parameters_are_stepped() -> None:
    plain, gated = Problem(), Problem()
    for problem in (plain, gated):
        sgd = SGD(problem.params, lr=0.1, momentum=0.9)
        if problem is gated:
            GatedSolver(problem.groups, GroupLasso(), 0.0).attach(sgd)
        problem.run(sgd, 10)
    assert torch.equal(plain.flat(), gated.flat())


def test_what_is_small_is_zero_for_good_and_frozen_later() -> None:
    problem = Problem()
    sgd = SGD(problem.params, lr=0.1, momentum=0.9)
    solver = GatedSolver(problem.groups, GroupLasso(), 0.4, threshold=0.05, freeze_at=150)
    solver.attach(sgd)
    dead = torch.zeros(ROWS, dtype=torch.bool)
    for _ in range(200):
        problem.run(sgd, 1)
        now = ~problem.groups.alive()
        assert not bool((dead & ~now).any())
        assert bool((problem.groups.norms()[~now] > 0.05).all()) or solver.frozen
        dead = now
    assert solver.frozen
    assert dead.any()


def test_a_step_that_breaks_off_leaves_the_parameters_and_training_goes_on() -> None:
    problem, straight = Problem(), Problem()
    for each, breaks in ((problem, True), (straight, False)):
        sgd = SGD(each.params, lr=0.1, momentum=0.9)
        GatedSolver(each.groups, GroupLasso(), 0.3).attach(sgd)
        each.run(sgd, 3)
        before = each.flat()

        def broken() -> Tensor:
            raise KeyboardInterrupt

        if breaks:
            with pytest.raises(KeyboardInterrupt):
                sgd.step(broken)
            torch.testing.assert_close(each.flat(), before)
            assert [len(group["params"]) for group in sgd.param_groups] == [2]
        each.run(sgd, 3)
    torch.testing.assert_close(problem.flat(), straight.flat())


def test_after_a_cut_it_goes_on_with_what_is_left() -> None:
    """As if the rows that are zero were still there."""
    cut, kept = Problem(), Problem()
    optimizers = [SGD(p.params, lr=0.1) for p in (cut, kept)]
    solvers = [GatedSolver(p.groups, GroupLasso(), 0.4, threshold=0.1) for p in (cut, kept)]
    for problem, optimizer, solver in zip((cut, kept), optimizers, solvers, strict=True):
        solver.attach(optimizer)
        problem.run(optimizer, 150)
    alive = cut.groups.alive()
    assert not alive.all()
    rows = alive.nonzero().flatten()
    columns = torch.arange(ROWS * 4).view(ROWS, 4)[rows].flatten()
    cut.a = cut.a[:, columns]
    cut.w.data, cut.v.data, cut.w.grad, cut.v.grad = cut.w.data[rows], cut.v.data[rows], None, None
    members = [Member("w.weight", cut.w, rows[:, None]), Member("w.bias", cut.v, rows)]
    solvers[0].rebind(Partition(members, ("w",), torch.zeros(ROWS, dtype=torch.long), "row", allow_empty=True))
    for problem, optimizer in zip((cut, kept), optimizers, strict=True):
        problem.run(optimizer, 20)
    torch.testing.assert_close(cut.w, kept.w[rows])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"penalty": L1()}, TypeError, "gates make a group lasso"),
        ({"factors": 1}, ValueError, "factors must be"),
        ({"threshold": -1.0}, ValueError, "threshold must be"),
    ],
)
def test_what_cannot_work_is_refused(options, error, message: str) -> None:
    problem = Problem()
    with pytest.raises(error, match=message):
        GatedSolver(**{"groups": problem.groups, "penalty": GroupLasso(), "strength": 0.1, **options})


def test_states_of_another_solver_are_refused() -> None:
    problem = Problem()
    solver = GatedSolver(problem.groups, GroupLasso(), 0.1)
    with pytest.raises(ValueError, match="the state has gates of shape none"):
        solver.load_state_dict(ProximalSolver(problem.groups, GroupLasso(), 0.1).state_dict())
    other = GatedSolver(problem.groups, GroupLasso(), 0.1, factors=3)
    sgd = SGD(problem.params, lr=0.1)
    other.attach(sgd)
    problem.run(sgd, 1)
    with pytest.raises(ValueError, match=r"gates of shape \(2, 5\), expected \(1, 5\)"):
        solver.load_state_dict(other.state_dict())
