"""What every penalty must satisfy; a new one joins by a line in PENALTIES."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ssl_prune.groups import Member, Partition
from ssl_prune.penalties import L1, GroupLasso, Penalty, SparseGroupLasso
from ssl_prune.penalties.functional import shrink_factor

Make = Callable[..., Partition]
PENALTIES: list[Penalty] = [
    L1(),
    GroupLasso(),
    GroupLasso(size_norm="sqrt"),
    SparseGroupLasso(l1_ratio=0.3),
    SparseGroupLasso(l1_ratio=0.7, size_norm="sqrt"),
]
every = pytest.mark.parametrize("penalty", PENALTIES, ids=str)


def flat(groups: Partition) -> Tensor:
    return torch.cat([m.param.detach().flatten() for m in groups.members])


def set_flat(groups: Partition, values: Tensor) -> None:
    sizes = [m.param.numel() for m in groups.members]
    for m, part in zip(groups.members, values.split(sizes), strict=True):
        m.param.data.copy_(part.view_as(m.param))


def plain(penalty: Penalty, groups: Partition, x: Tensor) -> Tensor:
    """The penalty in words of one line a term, differentiable: x is a row-wise (..., 8) copy of `make`'s entries."""
    ratio = {L1: 1.0, GroupLasso: 0.0}.get(type(penalty), getattr(penalty, "l1_ratio", 0.0))
    weight = groups.sizes.double().sqrt() if getattr(penalty, "size_norm", "none") == "sqrt" else torch.ones(2)
    first, second = x[..., [0, 1, 6]], x[..., [2, 3, 7]]  # row 0 with bias 0, row 1 with bias 1; 4, 5 ungrouped
    whole = weight[0] * first.norm(dim=-1) + weight[1] * second.norm(dim=-1)
    return ratio * x[..., :4].abs().sum(-1) + (1 - ratio) * whole


@every
def test_value(penalty: Penalty, make: Make) -> None:
    groups = make()
    torch.testing.assert_close(penalty.value(groups), plain(penalty, groups, flat(groups)))


@every
def test_subgradient_is_autograd_away_from_zero(penalty: Penalty, make: Make) -> None:
    groups = make()
    x = flat(groups).requires_grad_()
    (expected,) = torch.autograd.grad(plain(penalty, groups, x), x)
    got = penalty.subgradient(groups)
    assert [g.shape for g in got] == [m.param.shape for m in groups.members]
    torch.testing.assert_close(torch.cat([g.flatten() for g in got]), expected)


@every
def test_zero_is_a_fixed_point_without_nan(penalty: Penalty, make: Make) -> None:
    groups = make(scale=0.0)
    ones = [torch.ones_like(m.param) for m in groups.members]
    assert all(not g.any() for g in penalty.subgradient(groups))
    for step in (0.0, 0.1):
        penalty.prox(groups, step)
        penalty.prox_metric(groups, step, ones)
        assert torch.equal(flat(groups), torch.zeros(8, dtype=torch.float64))
    assert penalty.value(groups) == 0


@every
@pytest.mark.parametrize("metric", [False, True])
def test_prox_beats_every_point_around_it(penalty: Penalty, make: Make, metric: bool) -> None:
    """Brute force: no point of a fine random cloud, nor any with coordinates at zero, has a lower objective."""
    torch.manual_seed(3)
    for seed, strength in enumerate((0.05, 0.4, 1.0, 3.0)):
        groups = make(seed)
        w = flat(groups)
        h = torch.rand(8, dtype=torch.float64) * 3 + 0.2 if metric else torch.ones(8, dtype=torch.float64)

        def objective(
            z: Tensor, groups: Partition = groups, w: Tensor = w, h: Tensor = h, s: float = strength
        ) -> Tensor:
            return 0.5 * (h * (z - w).square()).sum(-1) + s * plain(penalty, groups, z)

        if metric:
            parts = [p.view_as(m.param) for p, m in zip(h.split([6, 2]), groups.members, strict=True)]
            penalty.prox_metric(groups, strength, parts)
        else:
            penalty.prox(groups, strength)
        z = flat(groups)
        cloud = z + torch.randn(20000, 8, dtype=torch.float64) * 10 ** (-4 * torch.rand(20000, 1, dtype=torch.float64))
        cloud = torch.cat(
            [cloud, cloud * (torch.rand(20000, 8) < 0.5), z * torch.rand(1000, 1), z * (1 + torch.rand(1000, 1))]
        )
        assert objective(z) <= objective(cloud).min() + 1e-12
        assert torch.equal(z[4:6], w[4:6])  # entries in no group are left alone


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_prox_is_the_minimum_on_a_grid(penalty: Penalty) -> None:
    grid = torch.linspace(-2, 2, 401, dtype=torch.float64)
    cells = torch.cartesian_prod(grid, grid)
    for values in ([1.0, 0.3], [-1.4, 1.2], [0.2, -0.1]):
        w = nn.Parameter(torch.tensor([values], dtype=torch.float64))
        groups = Partition([Member("a.weight", w, torch.tensor([[0]]))], ("a",), torch.tensor([0]), "row")
        start = w.detach().clone()
        penalty.prox(groups, 0.5)
        ratio = {L1: 1.0, GroupLasso: 0.0}.get(type(penalty), getattr(penalty, "l1_ratio", 0.0))
        size = 2**0.5 if getattr(penalty, "size_norm", "none") == "sqrt" else 1.0
        cost = ratio * cells.abs().sum(1) + (1 - ratio) * size * cells.norm(dim=1)
        best = cells[(0.5 * (cells - start).square().sum(1) + 0.5 * cost).argmin()]
        torch.testing.assert_close(w.detach()[0], best, atol=0.006, rtol=0)


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
@given(pair=pairs)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@every
def test_prox_is_equivariant_to_scale(penalty: Penalty, make: Make) -> None:
    small, large = make(5), make(5, scale=1024.0)
    penalty.prox(small, 0.5)
    penalty.prox(large, 512.0)
    torch.testing.assert_close(flat(large), 1024 * flat(small))


@every
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


@every
@pytest.mark.parametrize("metric", [False, True])
def test_nan_is_never_hidden(penalty: Penalty, make: Make, metric: bool) -> None:
    groups = make()
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
    with pytest.raises(ValueError, match=r"l1_ratio must be in \[0, 1\]"):
        SparseGroupLasso(ratio)


def test_bad_size_norm() -> None:
    with pytest.raises(ValueError, match="size_norm must be"):
        GroupLasso("log")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size_norm must be"):
        SparseGroupLasso(0.5, "log")  # type: ignore[arg-type]
