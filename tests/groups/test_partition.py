import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ssl_prune.groups import Member, Partition


def lay(member: Member) -> torch.Tensor:
    assert member.index is not None
    return member.index.expand(member.param.shape)


def by_hand(groups: Partition) -> torch.Tensor:
    """Norms by a Python loop over groups, in float64."""
    return torch.stack(
        [
            sum((m.param.detach().double()[lay(m) == g].square().sum() for m in groups.members), torch.zeros(())).sqrt()
            for g in range(groups.num_groups)
        ]
    )


def make(*parts: tuple[nn.Parameter, list[int] | torch.Tensor], groups: int | None = None) -> Partition:
    members = [Member(f"m{i}.weight", p, torch.as_tensor(index)) for i, (p, index) in enumerate(parts)]
    total = groups or 1 + max(int(m.index.max()) for m in members if m.index is not None)
    return Partition(members, ("m0",), torch.zeros(total, dtype=torch.long), "group")


@pytest.fixture
def coupled() -> Partition:
    torch.manual_seed(1)
    conv, scale = nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Parameter(torch.randn(3))
    reader = nn.Parameter(torch.randn(4, 3))
    return make((conv, torch.tensor([2, -1, 0]).view(3, 1, 1, 1)), (scale, [2, -1, 0]), (reader, [[1, 1, 0]]))


def test_norms_of_coupled_groups_are_those_of_a_loop(coupled: Partition) -> None:
    torch.testing.assert_close(coupled.norms().double(), by_hand(coupled), rtol=1e-5, atol=1e-6)
    assert coupled.norms().dtype == torch.float32


@given(st.integers(0, 2**31), st.lists(st.integers(1, 3), min_size=1, max_size=5))
@settings(max_examples=40)
def test_any_index_over_any_dimensions(seed: int, shape: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    spans = torch.rand(len(shape), generator=generator) < 0.5
    grid = [1 if span else size for span, size in zip(spans, shape, strict=True)]
    index = torch.randint(-1, 3, grid, generator=generator)
    w, fixed = (nn.Parameter(torch.randn(s, generator=generator)) for s in (shape, [3]))
    groups = make((w, index), (fixed, [0, 1, 2]))
    before = [w.detach().clone(), fixed.detach().clone()]
    torch.testing.assert_close(groups.norms().double(), by_hand(groups), rtol=1e-5, atol=1e-6)
    factor = torch.tensor([0.0, 0.5, 2.0])
    groups.scale_(factor)
    for m, old in zip(groups.members, before, strict=True):
        laid = lay(m)
        torch.testing.assert_close(m.param.detach(), torch.where(laid < 0, old, old * factor[laid.clamp(min=0)]))
    sizes = torch.stack([sum((lay(m) == g).sum() for m in groups.members) for g in range(3)])
    assert groups.sizes.tolist() == sizes.tolist()


def test_sum_and_expand_are_adjoint(coupled: Partition) -> None:
    values = torch.randn(3)
    tensors = [torch.randn_like(m.param) for m in coupled.members]
    laid = coupled.expand(values, fill=0.0)
    through = sum((t * v).sum() for t, v in zip(tensors, laid, strict=True))
    torch.testing.assert_close(through, (coupled.sum(tensors) * values).sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_add_up_in_float32_or_wider(dtype: torch.dtype) -> None:
    w = nn.Parameter(torch.full((2, 5000), 0.1, dtype=dtype))
    groups = make((w, torch.tensor([[0], [1]])), (nn.Parameter(torch.ones(2)), [0, 1]))
    exact = (5000 * w.detach()[0, 0].double() ** 2 + 1).sqrt()
    torch.testing.assert_close(groups.norms().double(), exact.expand(2), rtol=1e-5, atol=0)
    groups.scale_(torch.tensor([0.0, 1.0]))
    assert groups.alive().tolist() == [False, True]
    assert w.dtype == dtype
    assert groups.norms().dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_alive_sees_entries_whose_square_underflows() -> None:
    w = nn.Parameter(torch.tensor([[1e-30], [0.0]]))
    groups = make((w, torch.tensor([[0], [1]])))
    assert groups.alive().tolist() == [True, False]


def test_a_nan_stays(coupled: Partition) -> None:
    with torch.no_grad():
        coupled.members[0].param[0, 0, 0, 0] = torch.nan  # in group 2
    assert coupled.norms().isnan().tolist() == [False, False, True]
    assert coupled.alive()[2]


def test_nan_outside_of_groups_does_not_leak(coupled: Partition) -> None:
    with torch.no_grad():
        coupled.members[0].param[1] = torch.nan  # index -1
    assert coupled.norms().isfinite().all()


def test_follows_the_model_to_another_dtype_in_place(coupled: Partition) -> None:
    coupled.members[0].param.data = coupled.members[0].param.data * 2
    torch.testing.assert_close(coupled.norms().double(), by_hand(coupled), rtol=1e-5, atol=1e-6)


def test_restrict_keeps_the_numbers(coupled: Partition) -> None:
    part = coupled.restrict([1])
    assert part.num_groups == 3
    torch.testing.assert_close(
        part.norms(), coupled.members[1].param.detach()[[2, 1, 0]].abs() * torch.tensor([1, 0, 1])
    )


def test_restrict_entrywise() -> None:
    a, b = nn.Parameter(torch.tensor([[1.0, 2.0]])), nn.Parameter(torch.tensor([[3.0]]))
    whole = Partition(
        [Member("a.weight", a, None), Member("b.weight", b, None)], ("a", "b"), torch.tensor([0, 0, 1]), "weight"
    )
    assert whole.norms().tolist() == [1, 2, 3]
    assert whole.restrict([1]).norms().tolist() == [0, 0, 3]
    assert whole.describe(1) == "a weight 1"
    assert whole.describe(2) == "b weight"


def test_describe_names_the_position(coupled: Partition) -> None:
    assert coupled.describe(2) == "m0 group 0"
    with pytest.raises(IndexError, match="group 3 does not exist"):
        coupled.describe(3)


@pytest.mark.parametrize(
    ("index", "count", "message"),
    [
        (torch.zeros(3, dtype=torch.long), 1, "does not broadcast"),
        (torch.zeros(3, 1, dtype=torch.long), 1, "does not broadcast"),
        (torch.tensor([[0], [2]]), 2, r"must be in \[-1, 2\), got 0 to 2"),
        (torch.tensor([[0], [-2]]), 2, "must be in"),
        (torch.tensor([[0], [0]]), 2, "group 1 has no entries"),
    ],
)
def test_bad_indices(index: torch.Tensor, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make((nn.Parameter(torch.ones(2, 3)), index), groups=count)


def test_a_parameter_appears_once() -> None:
    w = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="appears twice"):
        make((w, [0]), (w, [0]))
