"""All entries in one row of memory, as accelerators have them, against the sums a parameter."""

import importlib
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ssl_prune.groups import Member, Partition
from ssl_prune.groups.flat import Flat
from ssl_prune.penalties import GroupLasso

home = importlib.import_module("ssl_prune.groups.partition")  # the package has a function of this name


def build(members: list[tuple[nn.Parameter, torch.Tensor]], count: int) -> Partition:
    parts = [Member(f"m{i}.weight", p, index) for i, (p, index) in enumerate(members)]
    return Partition(parts, ("m0",), torch.zeros(count, dtype=torch.long), "group", allow_empty=True)


def in_rows(groups: Partition, act: Callable[[Partition], torch.Tensor | None]) -> torch.Tensor | None:
    """What `act` returns where launching a kernel costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, "launching_costs", lambda device: True)
        found = act(groups)
        assert groups._flat is not None
        return found


@given(st.integers(0, 2**31), st.lists(st.integers(1, 4), min_size=4, max_size=4), st.permutations(range(4)))
@settings(max_examples=60)
def test_any_index_in_any_layout(seed: int, shape: list[int], layout: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    spans = torch.rand(4, generator=generator) < 0.5
    grid = [1 if span else size for span, size in zip(spans, shape, strict=True)]
    index = torch.randint(-1, 5, grid, generator=generator)
    laid = torch.randn([shape[d] for d in layout], generator=generator).permute([layout.index(d) for d in range(4)])
    assert list(laid.shape) == shape
    groups = build(
        [(nn.Parameter(laid), index), (nn.Parameter(torch.randn(3, generator=generator)), torch.tensor([4, -1, 0]))], 5
    )
    torch.testing.assert_close(in_rows(groups, Partition.norms), groups.norms())
    values = [m.param.detach().clone() for m in groups.members]
    torch.testing.assert_close(in_rows(groups, lambda g: g.sum(values)), groups.sum(values))
    torch.testing.assert_close(in_rows(groups, lambda g: g.alive()), groups.alive())
    factor = torch.tensor([0.0, 0.5, 2.0, 1.0, float("nan")])
    expected = [v * f for v, f in zip(values, groups.expand(factor), strict=True)]
    in_rows(groups, lambda g: g.scale_(factor))
    for member, wanted in zip(groups.members, expected, strict=True):
        torch.testing.assert_close(member.param.detach(), wanted, equal_nan=True, rtol=0, atol=0)


def test_a_layout_that_changes_is_seen() -> None:
    conv = nn.Conv2d(3, 4, 2, bias=False)
    groups = build([(conv.weight, torch.tensor([0, 1, 0]).view(1, 3, 1, 1))], 2)
    before = in_rows(groups, Partition.norms)
    conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(in_rows(groups, Partition.norms), before)
    in_rows(groups, lambda g: g.scale_(torch.tensor([0.0, 1.0])))
    assert not conv.weight[:, ::2].any()
    assert conv.weight[:, 1].all()


def test_what_is_not_dense_in_memory_is_left_to_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    every_other = nn.Parameter(torch.randn(4, 6)[:, ::2])
    groups = build([(every_other, torch.tensor([[0], [1], [1], [0]]))], 2)
    expected = groups.norms()
    monkeypatch.setattr(home, "launching_costs", lambda device: True)
    assert not Flat.suits(groups.members)
    torch.testing.assert_close(groups.norms(), expected)
    groups.scale_(torch.tensor([1.0, 0.0]))
    assert groups.alive().tolist() == [True, False]


def test_half_precision_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    w = nn.Parameter(torch.randn(64, 8, dtype=torch.bfloat16))
    groups = build([(w, torch.arange(64)[:, None])], 64)
    factor = torch.rand(64)
    wanted = (w.detach().float() * factor[:, None]).bfloat16()
    monkeypatch.setattr(home, "launching_costs", lambda device: True)
    groups.scale_(factor)
    torch.testing.assert_close(w.detach(), wanted, rtol=0, atol=0)


@given(st.integers(0, 2**31))
@settings(max_examples=30)
def test_penalties_move_weights_and_gradients_the_same_way(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def parts() -> Partition:
        draw = torch.Generator().manual_seed(seed)
        conv = nn.Parameter(torch.randn(3, 2, 2, 2, generator=draw).to(memory_format=torch.channels_last))
        scale = nn.Parameter(torch.randn(3, generator=draw))
        conv.grad, scale.grad = torch.randn(3, 2, 2, 2, generator=draw), torch.randn(3, generator=draw)
        conv.grad = conv.grad.to(memory_format=torch.channels_last)
        return build([(conv, torch.tensor([1, -1, 0]).view(3, 1, 1, 1)), (scale, torch.tensor([1, 2, -1]))], 3)

    metric = [0.1 + torch.rand(3, 2, 2, 2, generator=generator), torch.tensor([2.0])]
    strength = float(torch.rand((), generator=generator)) * 2
    for act in (
        lambda g: GroupLasso("sqrt").prox_metric(g, strength, metric),
        lambda g: GroupLasso("sqrt").prox(g, strength),
        lambda g: GroupLasso().add_subgradient(g, strength),
    ):
        one, other = parts(), parts()
        act(one)
        in_rows(other, act)
        for a, b in zip(one.members, other.members, strict=True):
            torch.testing.assert_close(b.param, a.param, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(b.param.grad, a.param.grad)
