"""What every penalty must satisfy; a new one joins by a line in the list of tests/helpers/penalty_cases.py."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from penalty_cases import CASES, PENALTIES, Case
from torch import Tensor, nn

from ssl_prune.groups import Member, Partition
from ssl_prune.penalties import L1, GroupLasso, GroupMCP, GroupSCAD, Penalty, SparseGroupLasso
from ssl_prune.penalties.functional import shrink_factor

Make = Callable[..., Partition]
every = pytest.mark.parametrize("penalty", PENALTIES, ids=str)
every_case = pytest.mark.parametrize("case", CASES, ids=str)
convex = pytest.mark.parametrize("penalty", [p for p in PENALTIES if p.convex], ids=str)
homogeneous = pytest.mark.parametrize("penalty", [p for p in PENALTIES if p.homogeneous], ids=str)
with_metric = pytest.mark.parametrize("penalty", [p for p in PENALTIES if p.has_prox_metric], ids=str)
METRICS = [(case, metric) for case in CASES for metric in (False, True) if case.penalty.has_prox_metric or not metric]


def flat(groups: Partition) -> Tensor:
    return torch.cat([m.param.detach().flatten() for m in groups.members])


def set_flat(groups: Partition, values: Tensor) -> None:
    sizes = [m.param.numel() for m in groups.members]
    for m, part in zip(groups.members, values.split(sizes), strict=True):
        m.param.data.copy_(part.view_as(m.param))


def plain(case: Case, x: Tensor) -> Tensor:
    """The penalty in other words, differentiable: x is a (..., 8) copy of `make`'s entries; 4 and 5 are in no group."""
    return case.cost(x[..., [0, 1]], x[..., [6]]) + case.cost(x[..., [2, 3]], x[..., [7]])


@every_case
@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_value(case: Case, make: Make, scale: float) -> None:
    groups = make(scale=scale)
    torch.testing.assert_close(case.penalty.value(groups), plain(case, flat(groups)))


@every_case
@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_subgradient_is_autograd_away_from_zero(case: Case, make: Make, scale: float) -> None:
    groups = make(scale=scale)
    x = flat(groups).requires_grad_()
    (expected,) = torch.autograd.grad(plain(case, x), x)
    got = case.penalty.subgradient(groups)
    assert [g.shape for g in got] == [m.param.shape for m in groups.members]
    torch.testing.assert_close(torch.cat([g.flatten() for g in got]), expected)


@every
def test_zero_is_a_fixed_point_without_nan(penalty: Penalty, make: Make) -> None:
    groups = make(scale=0.0)
    ones = [torch.ones_like(m.param) for m in groups.members]
    assert all(not g.any() for g in penalty.subgradient(groups))
    for step in (0.0, 0.1):
        penalty.prox(groups, step)
        if penalty.has_prox_metric:
            penalty.prox_metric(groups, step, ones)
        assert torch.equal(flat(groups), torch.zeros(8, dtype=torch.float64))
    assert penalty.value(groups) == 0


@pytest.mark.parametrize(("case", "metric"), METRICS, ids=str)
def test_prox_beats_every_point_around_it(case: Case, make: Make, metric: bool) -> None:
    """Brute force: no point of a fine random cloud, nor any with coordinates at zero, has a lower objective."""
    penalty = case.penalty
    torch.manual_seed(3)
    for seed, strength in enumerate((0.05, 0.4, 1.0, 3.0)):
        groups = make(seed)
        w = flat(groups)
        h = torch.rand(8, dtype=torch.float64) * 3 + 0.2 if metric else torch.ones(8, dtype=torch.float64)

        def objective(z: Tensor, w: Tensor = w, h: Tensor = h, s: float = strength) -> Tensor:
            return 0.5 * (h * (z - w).square()).sum(-1) + s * plain(case, z)

        if metric:
            parts = [p.view_as(m.param) for p, m in zip(h.split([6, 2]), groups.members, strict=True)]
            penalty.prox_metric(groups, strength, parts)
        else:
            penalty.prox(groups, strength)
        z = flat(groups)
        cloud = z + torch.randn(20000, 8, dtype=torch.float64) * 10 ** (-4 * torch.rand(20000, 1, dtype=torch.float64))
        cloud = torch.cat(
            [
                cloud,
                cloud * (torch.rand(20000, 8) < 0.5),
                z * torch.rand(1000, 1),
                z * (1 + torch.rand(1000, 1)),
                w * torch.rand(1000, 1),
            ]
        )
        assert objective(z) <= objective(cloud).min() + 1e-12
        assert torch.equal(z[4:6], w[4:6])  # entries in no group are left alone


@every_case
@pytest.mark.parametrize("step", [0.1, 0.5, 0.9, 2.0])
def test_prox_is_the_minimum_on_a_grid(case: Case, step: float) -> None:
    """Of the whole plane, so that a map which stays in a local minimum of a penalty that is not convex is seen."""
    grid = torch.linspace(-3, 3, 601, dtype=torch.float64)
    cells = torch.cartesian_prod(grid, grid)
    for values in ([1.0, 0.3], [-1.4, 1.2], [0.2, -0.1], [2.5, -1.0], [0.8, 0.0]):
        w = nn.Parameter(torch.tensor([values], dtype=torch.float64))
        groups = Partition([Member("a.weight", w, torch.tensor([[0]]))], ("a",), torch.tensor([0]), "row")
        start = w.detach().clone()
        case.penalty.prox(groups, step)
        costs = case.cost(cells, cells[:, :0])
        objective = 0.5 * (cells - start).square().sum(1) + step * costs
        best = cells[objective.argmin()]
        torch.testing.assert_close(w.detach()[0], best, atol=0.012, rtol=0)


@dataclass(frozen=True)
class Pair:
    """A point, another one beside it, and a step: any, or where a group dies at one of the two."""

    seed: int
    direction: str
    distance: float  # its decimal logarithm
    step: float
    dying: int | None
    place: float


pairs = st.builds(
    Pair,
    seed=st.integers(0, 10**6),
    direction=st.sampled_from(["all", "outwards", "weight"]),
    distance=st.floats(-5, 0),
    step=st.floats(0, 3),
    dying=st.sampled_from([None, 0, 1]),
    place=st.floats(0, 1),
)


def death(penalty: Penalty, make: Make, seed: int, group: int) -> float:
    """The step from which on a group is zero."""
    low, high = 0.0, 16.0
    for _ in range(24):
        groups, middle = make(seed), (low + high) / 2
        penalty.prox(groups, middle)
        low, high = (middle, high) if groups.norms()[group] > 0 else (low, middle)
    return high


def expansion(penalty: Penalty, make: Make, pair: Pair) -> float:
    """How far apart the proximal map lays the two points, of the distance between them."""
    one, other = make(pair.seed), make(pair.seed)
    noise = torch.randn(8, generator=torch.Generator().manual_seed(pair.seed + 1), dtype=torch.float64)
    entry = torch.eye(8, dtype=torch.float64)[pair.seed % 8]
    direction = {"all": noise, "outwards": flat(one), "weight": entry}[pair.direction]
    set_flat(other, flat(one) + 10**pair.distance * direction)
    step = pair.step
    if pair.dying is not None:
        step = death(penalty, make, pair.seed, pair.dying) * (1 + pair.place * 10**pair.distance)
    before = (flat(one) - flat(other)).norm()
    penalty.prox(one, step)
    penalty.prox(other, step)
    return float((flat(one) - flat(other)).norm() / before)


@every
@pytest.mark.parametrize("step", [0.05, 0.4, 1.0, 3.0])
def test_prox_is_stationary(penalty: Penalty, make: Make, step: float) -> None:
    """``(w - z) / step`` is a subgradient at ``z``; moved by less than the penalty's pull, no point else is."""
    for seed in range(5):
        groups = make(seed, scale=1.5)
        w = [m.param.detach().clone() for m in groups.members]
        before = penalty.subdifferential_distance(groups, [torch.zeros_like(m.param) for m in groups.members], 1.0)
        penalty.prox(groups, step)
        pulls = [(m.param.detach() - start) / step for m, start in zip(groups.members, w, strict=True)]
        distance = penalty.subdifferential_distance(groups, pulls, 1.0)
        torch.testing.assert_close(distance, torch.zeros_like(distance), atol=1e-10, rtol=0)
        expected = [m.param for m in make(seed, scale=1.5).members]
        assert all(torch.equal(a, b) for a, b in zip(w, expected, strict=True))
        slope = torch.stack([g.square().sum() for g in penalty.subgradient(make(seed, scale=1.5))]).sum().sqrt()
        torch.testing.assert_close(before.norm(), slope)


@convex
@given(pair=pairs)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prox_is_nonexpansive(penalty: Penalty, make: Make, pair: Pair) -> None:
    assert expansion(penalty, make, pair) <= 1 + 1e-9


class Hard(GroupLasso):
    """Groups above the threshold stay as they are."""

    def prox(self, groups: Partition, step: float | Tensor) -> None:
        groups.scale_((groups.norms() > step).double())


class Firm(GroupLasso):
    """Groups come back to what they were, half as fast again as they grow, up to three times the threshold."""

    def prox(self, groups: Partition, step: float | Tensor) -> None:
        groups.scale_((1.5 * shrink_factor(groups.norms(), step)).clamp(max=1))


class HardEntries(L1):
    """Single entries above the threshold stay as they are."""

    def prox(self, groups: Partition, step: float | Tensor) -> None:
        for member in groups.members:
            member.param.data.mul_(member.param.abs() > step)


@pytest.mark.parametrize("penalty", [Hard(), Firm(), HardEntries()], ids=["hard", "firm", "entries"])
def test_pairs_tell_an_expansive_map(penalty: Penalty, make: Make) -> None:
    few = settings(max_examples=40, phases=[Phase.generate], database=None, derandomize=True)
    find(pairs, lambda pair: expansion(penalty, make, pair) > 1 + 1e-6, settings=few)


@homogeneous
def test_prox_is_equivariant_to_scale(penalty: Penalty, make: Make) -> None:
    small, large = make(5), make(5, scale=1024.0)
    penalty.prox(small, 0.5)
    penalty.prox(large, 512.0)
    torch.testing.assert_close(flat(large), 1024 * flat(small))


@with_metric
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_metric_of_one_over_the_step_is_the_plain_prox(penalty: Penalty, make: Make, dtype: torch.dtype) -> None:
    for seed, (lr, strength) in enumerate([(0.1, 2.0), (1e-3, 50.0), (2.0, 1.5)]):
        plain_, metric = make(seed, dtype), make(seed, dtype)
        penalty.prox(plain_, lr * strength)
        penalty.prox_metric(metric, strength, [torch.tensor(1 / lr, dtype=dtype) for _ in metric.members])
        torch.testing.assert_close(flat(metric), flat(plain_), rtol=2e-5, atol=1e-6)


@every
def test_steps_may_be_tensors(penalty: Penalty, make: Make) -> None:
    number, scalar, vector = make(1), make(1), make(1)
    penalty.prox(number, 0.25)
    penalty.prox(scalar, torch.tensor(0.25))
    penalty.prox(vector, torch.tensor([0.25, 0.25]))
    torch.testing.assert_close(flat(scalar), flat(number))
    torch.testing.assert_close(flat(vector), flat(number))
    one = make(1)
    penalty.prox(one, torch.tensor([0.0, 100.0]))
    assert torch.equal(flat(one)[:2], flat(make(1))[:2])
    assert not flat(one)[2:4].any()


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_float32_rounded_once(penalty: Penalty, make: Make, dtype: torch.dtype) -> None:
    low, wide = make(2, dtype), make(2, torch.float32)
    set_flat(wide, flat(low).float())
    for groups in (low, wide):
        penalty.prox(groups, 0.2)
    eps = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(flat(low).float(), flat(wide), rtol=eps, atol=eps / 4)
    assert penalty.value(low).dtype == torch.float32
    assert low.members[0].param.dtype == dtype
    assert penalty.subgradient(low)[0].dtype == dtype


@pytest.mark.parametrize(("case", "metric"), METRICS, ids=str)
def test_nan_is_never_hidden(case: Case, make: Make, metric: bool) -> None:
    penalty, groups = case.penalty, make()
    groups.members[0].param.data[0, 0] = torch.nan
    if metric:
        penalty.prox_metric(groups, 100.0, [torch.ones_like(m.param) for m in groups.members])
    else:
        penalty.prox(groups, 100.0)
    assert groups.members[0].param[0, 0].isnan()
    assert torch.cat([g.flatten() for g in penalty.subgradient(groups)]).isnan().any()
    assert penalty.value(groups).isnan()


@pytest.mark.parametrize("size_norm", ["none", "sqrt"])
def test_sparse_group_lasso_is_the_composition_and_its_ends(make: Make, size_norm: str) -> None:
    group = GroupLasso(size_norm)  # type: ignore[arg-type]
    pairs = {0.0: [group], 1.0: [L1()], 0.25: None}
    for ratio, simpler in pairs.items():
        mixed, by_hand = make(4), make(4)
        penalty = SparseGroupLasso(ratio, size_norm)  # type: ignore[arg-type]
        if simpler is None:
            L1().prox(by_hand, 0.8 * ratio)
            group.prox(by_hand, 0.8 * (1 - ratio))
        else:
            torch.testing.assert_close(penalty.value(mixed), simpler[0].value(mixed))
            simpler[0].prox(by_hand, 0.8)
        penalty.prox(mixed, 0.8)
        assert torch.equal(flat(mixed), flat(by_hand))
        assert penalty.entrywise == (ratio > 0)


def test_group_lasso_over_single_entries_is_l1() -> None:
    weights = [nn.Parameter(torch.randn(4, 3)) for _ in range(2)]
    lasso, group = (
        Partition([Member("a.weight", w, None)], ("a",), torch.zeros(12, dtype=torch.long), "weight") for w in weights
    )
    weights[1].data.copy_(weights[0].data)
    torch.testing.assert_close(GroupLasso("sqrt").value(group), L1().value(lasso))
    GroupLasso("sqrt").prox(group, 0.3)
    L1().prox(lasso, 0.3)
    assert torch.equal(weights[0], weights[1])


def test_group_norms_fall_as_the_step_grows(make: Make) -> None:
    found = []
    for step in (0.0, 0.1, 0.5, 2.0):
        groups = make()
        GroupLasso().prox(groups, step)
        found.append(groups.norms())
    assert all(bool((b <= a).all()) for a, b in pairwise(found))


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_bad_ratio(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"l1_ratio must be a number in \[0, 1\]"):
        SparseGroupLasso(ratio)


def test_bad_size_norm() -> None:
    with pytest.raises(ValueError, match="size_norm must be"):
        GroupLasso("log")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size_norm must be"):
        SparseGroupLasso(0.5, "log")  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [lambda far: GroupMCP(gamma=far), lambda far: GroupSCAD(a=far)])
@pytest.mark.parametrize("size_norm", ["none", "sqrt"])
def test_far_away_a_concave_penalty_is_the_group_lasso(
    make: Make, build: Callable[[float], Penalty], size_norm: str
) -> None:
    for far in (1e9, float("inf")):
        concave, lasso = replace(build(far), size_norm=size_norm), GroupLasso(size_norm)  # type: ignore[type-var, arg-type]
        a, b = make(3), make(3)
        torch.testing.assert_close(concave.value(a), lasso.value(b))
        concave.prox(a, 0.4)
        lasso.prox(b, 0.4)
        torch.testing.assert_close(flat(a), flat(b))


@pytest.mark.parametrize("penalty", [GroupMCP(gamma=2.0), GroupMCP(0.1, "sqrt"), GroupSCAD(a=2.0, knee=0.5)], ids=str)
@pytest.mark.parametrize("step", [0.01, 0.5, 5.0])
def test_large_groups_are_not_shrunk_and_small_ones_die(make: Make, penalty: Penalty, step: float) -> None:
    large, small = make(scale=100.0), make(scale=1e-4)
    before = flat(large)
    penalty.prox(large, step)
    assert torch.equal(flat(large), before)
    penalty.prox(small, step)
    assert not small.alive().any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GroupMCP(gamma=0.0), "gamma must be"),
        (lambda: GroupMCP(gamma=float("nan")), "gamma must be"),
        (lambda: GroupSCAD(a=1.0), "a must be"),
        (lambda: GroupSCAD(knee=0.0), "knee must be a finite"),
        (lambda: GroupMCP(size_norm="log"), "size_norm must be"),  # type: ignore[arg-type]
        (lambda: GroupSCAD(size_norm="log"), "size_norm must be"),  # type: ignore[arg-type]
    ],
)
def test_bad_numbers(build: Callable[[], Penalty], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
