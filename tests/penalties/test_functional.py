import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssl_prune.penalties.functional import metric_norms, shrink_factor, soft_threshold

floats = st.floats(-5, 5, width=32)


def solve(w: Tensor, h: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """`metric_norms` for one tensor whose rows are the groups: theta and z."""
    theta, (offsets,) = metric_norms([w], [h], s, lambda t: t[0].sum(1), lambda v: [v[:, None]])
    t = theta[:, None]
    return theta, torch.where(t == 0, 0, w * (t / (t + offsets)))


def bisect(w: Tensor, h: Tensor, s: Tensor) -> Tensor:
    low, high = torch.zeros_like(s), w.norm(dim=1)
    for _ in range(200):
        middle = (low + high) / 2
        left = (w / (middle[:, None] + s[:, None] / h)).norm(dim=1) > 1
        low, high = torch.where(left, middle, low), torch.where(left, high, middle)
    return low


@given(st.lists(floats, min_size=1, max_size=5), st.lists(floats, min_size=5, max_size=5), st.floats(-6, 0), st.floats(0, 3))  # fmt: skip
def test_soft_threshold_is_nonexpansive_and_odd(a: list[float], b: list[float], distance: float, step: float) -> None:
    x = torch.tensor(a, dtype=torch.float64)
    y = x + 10**distance * torch.tensor(b[: len(a)], dtype=torch.float64)
    moved = (soft_threshold(x, step) - soft_threshold(y, step)).norm()
    assert moved <= (x - y).norm() + 1e-12
    assert torch.equal(soft_threshold(-x, step), -soft_threshold(x, step))


def test_number_and_tensor_steps_agree() -> None:
    w = torch.randn(100)
    torch.testing.assert_close(soft_threshold(w, 0.3), soft_threshold(w, torch.tensor(0.3)), atol=1e-7, rtol=0)


@pytest.mark.parametrize("step", [0.5, torch.tensor(0.5)])
def test_nan_and_infinity_stay(step: float | Tensor) -> None:
    out = soft_threshold(torch.tensor([torch.nan, torch.inf, -torch.inf, 0.5]), step)
    assert out[0].isnan()
    assert out[1:].tolist() == [torch.inf, -torch.inf, 0.0]


def test_shrink_factor_at_the_edges() -> None:
    norms = torch.tensor([0.0, 1.0, torch.nan, torch.inf, 1e-44])
    assert shrink_factor(norms, 1.0)[:2].tolist() == [0.0, 0.0]
    assert shrink_factor(norms, 1.0)[2].isnan()
    assert shrink_factor(norms, 1.0)[3:].tolist() == [1.0, 0.0]
    assert shrink_factor(norms[:2], 0.0).tolist() == [1.0, 1.0]  # 0 / 0 is no shrinkage


@pytest.mark.parametrize("decades", [0, 1, 3, 6, 10])
def test_newton_finds_the_root_of_bisection(decades: int) -> None:
    torch.manual_seed(decades)
    w = torch.randn(500, 6, dtype=torch.float64) * 10 ** (decades * (torch.rand(500, 6, dtype=torch.float64) - 0.5))
    h = 10 ** (decades * (torch.rand(500, 6, dtype=torch.float64) - 0.5))
    s = (h * w).norm(dim=1) * 10 ** (-3 * torch.rand(500, dtype=torch.float64))
    theta, z = solve(w, h, s)
    torch.testing.assert_close(theta, bisect(w, h, s), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(z.norm(dim=1), theta, rtol=1e-4, atol=1e-9)  # theta is the norm of what it gives


def test_zero_if_and_only_if_the_pull_is_too_weak() -> None:
    w, h = torch.tensor([[3.0, 4.0]]).double(), torch.tensor([[2.0, 1.0]]).double()
    pull = (h * w).norm(dim=1)  # ||H w||
    assert not solve(w, h, pull * 1.000001)[1].any()
    assert solve(w, h, pull * 0.999999)[1].any()


def test_infinite_and_zero_metric() -> None:
    w = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]])
    h = torch.tensor([[torch.inf, torch.inf], [torch.inf, torch.inf], [0.0, 1.0]])
    z = solve(w, h, torch.tensor([0.5, 0.5, 0.5]))[1]
    assert torch.equal(z[:2], w[:2])
    torch.testing.assert_close(z[2], torch.tensor([0.0, 1.5]))


@given(st.integers(0, 10**6), st.floats(0, 36))
def test_single_precision_finds_the_root_of_a_metric_over_many_decades(seed: int, decades: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(20, 4, generator=generator)
    h = 10 ** (decades * (torch.rand(20, 4, generator=generator) - 0.5))
    h[torch.rand(20, 4, generator=generator) < 0.1] = torch.inf
    s = (h.clamp(max=1e18) * w).norm(dim=1) * 10 ** (-3 * torch.rand(20, generator=generator))
    theta, _ = solve(w, h, s)
    torch.testing.assert_close(theta.double(), bisect(w.double(), h.double(), s.double()), rtol=1e-4, atol=1e-5)


@given(st.integers(0, 10**6), st.floats(-38, 0))
def test_weights_whose_squares_are_zero_are_never_nan(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(20, 4, generator=generator) * 10**scale
    h = torch.rand(20, 4, generator=generator) * 10**-scale
    _, z = solve(w, h, torch.full((20,), 0.5))
    assert bool(((z.abs() <= w.abs()) & (z * w >= 0)).all())


@given(st.integers(0, 10**6), st.floats(-5, 0), st.booleans(), st.floats(-1, 1))
def test_metric_map_is_nonexpansive_in_its_metric(seed: int, distance: float, outwards: bool, edge: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, noise = (torch.randn(1, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    y = x + 10**distance * (x if outwards else noise)
    h = torch.rand(1, 4, generator=generator, dtype=torch.float64) + 0.1
    s = (h * x).norm(dim=1) * (1 + edge)  # a group dies where it is ||H w||
    moved = (h * (solve(x, h, s)[1] - solve(y, h, s)[1]).square()).sum()
    assert moved <= (h * (x - y).square()).sum() * (1 + 1e-6)
