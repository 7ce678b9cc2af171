"""Shares of layers against RigL's published ones, and whole numbers that add up."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_prune.selection import densities, kept, rounded, select

LENET_300_100 = {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}
LENET_5 = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500)}


def resnet_50() -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes of its weights, and the positions at which each works on 224 x 224 pixels."""
    shapes, places = {"conv1": (64, 3, 7, 7)}, {"conv1": 112**2}
    width, side = 64, 56
    for stage, (depth, inner) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for block in range(depth):
            name, stride = f"{stage}.{block}", 2 if stage and not block else 1
            convs = {
                "a": ((inner, width, 1, 1), side),
                "b": ((inner, inner, 3, 3), side // stride),
                "c": ((4 * inner, inner, 1, 1), side // stride),
            }
            if not block:
                convs["shortcut"] = ((4 * inner, width, 1, 1), side // stride)
            for part, (shape, at) in convs.items():
                shapes[f"{name}.{part}"], places[f"{name}.{part}"] = shape, at**2
            width, side = 4 * inner, side // stride
    return {**shapes, "fc": (1000, 2048)}, {**places, "fc": 1}


@pytest.mark.parametrize(
    ("shapes", "sparsity", "expected"),
    [
        (LENET_300_100, 0.9, [0.0796, 0.2302, 1.0]),
        (LENET_300_100, 0.95, [0.0385, 0.1113, 0.9185]),
        (LENET_300_100, 0.98, [0.0154, 0.0445, 0.3674]),
        (LENET_5, 0.9, [1.0, 0.0871, 0.0884, 1.0]),
        (LENET_5, 0.95, [0.7261, 0.0375, 0.0381, 1.0]),
    ],
)
def test_erk_is_as_the_released_code_has_it(shapes, sparsity, expected) -> None:
    assert list(densities("erk", shapes, sparsity).values()) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(
    ("kind", "sparsity", "published"),
    [("erk", 0.8, 0.42), ("erk", 0.9, 0.24), ("uniform", 0.8, 0.23), ("uniform", 0.9, 0.13)],
)
def test_multiply_accumulates_of_a_sparse_resnet_50_are_the_published_ones(kind, sparsity, published) -> None:
    shapes, places = resnet_50()
    dense = sum(prod(shape) * places[name] for name, shape in shapes.items())
    assert dense == pytest.approx(4.09e9, rel=0.01)
    found = densities(kind, shapes, sparsity, fixed={"conv1": 1.0} if kind == "uniform" else None)
    assert sum(found[n] * prod(s) * places[n] for n, s in shapes.items()) / dense == pytest.approx(published, abs=0.008)


def test_er_counts_neurons_and_erk_kernels_too() -> None:
    shapes = {"a": (8, 4, 3, 3), "b": (16, 8, 1, 1), "c": (64, 64)}
    er, erk = densities("er", shapes, 0.9), densities("erk", shapes, 0.9)
    assert er["a"] / er["c"] == pytest.approx((12 / 32) / (128 / 4096))
    assert erk["a"] / erk["c"] == pytest.approx((18 / 288) / (128 / 4096))


SHAPES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5)), min_size=1, max_size=6).map(
    lambda found: {f"layer{i}": (out, into, side, side) for i, (out, into, side) in enumerate(found)}
)


@settings(derandomize=True)
@given(st.sampled_from(["uniform", "er", "erk"]), SHAPES, st.integers(0, 999), st.booleans())
def test_the_whole_has_its_sparsity_and_no_layer_more_than_all(kind, shapes, thousandths, one_fixed) -> None:
    sparsity = thousandths / 1000
    fixed = {"layer0": 1.0} if one_fixed and len(shapes) > 1 else {}
    found = densities(kind, shapes, sparsity, fixed=fixed)
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    free = [name for name in shapes if name not in fixed]
    whole = sum(sizes[name] for name in free)
    assert all(0 <= density <= 1 for density in found.values())
    assert sum(found[n] * sizes[n] for n in free) == pytest.approx((1 - sparsity) * whole)
    counts = rounded({n: found[n] for n in free}, sizes, kept(sparsity, whole))
    assert sum(counts.values()) == kept(sparsity, whole)
    assert all(abs(counts[n] - found[n] * sizes[n]) < 1 + 1e-9 and counts[n] <= sizes[n] for n in free)
    if kind == "erk":  # those that are not dense share one factor
        factors = [found[n] * sizes[n] / sum(shapes[n]) for n in free if found[n] < 1]
        assert all(factor == pytest.approx(factors[0]) for factor in factors)
        for n in free if factors else []:  # and those that are would pass 1 with it
            assert found[n] < 1 or factors[0] * sum(shapes[n]) >= sizes[n] * (1 - 1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ERK", LENET_5, 0.9), "unknown kind 'ERK'; expected one of uniform, er, erk, global"),
        (("erk", LENET_5, 1.0), r"sparsity must be a number in \[0, 1\), got 1.0"),
        (("erk", LENET_5), "sparsity must be a number in .* got None"),
        (
            ("uniform", {"fc": (10, 0)}, 0.9),
            r"each size in the shape \(10, 0\) of fc must be a whole number >= 1, got 0",
        ),
        (("global", LENET_5, 0.9), "has none before there are scores"),
        (("er", {"bias": (10,)}, 0.9), r"bias has the shape \(10,\), expected \(out, in, ...\)"),
        (({"conv1": 0.5}, LENET_5), "stated densities need one for conv2"),
        ((dict.fromkeys(LENET_5, 0.5), LENET_5, 0.5), "sparsity must be left out, got 0.5"),
        (({**dict.fromkeys(LENET_5, 0.5), "fc9": 1.0}, LENET_5), "fc9 is none of the layers, which are conv1"),
        ((dict.fromkeys(LENET_5, 1.5), LENET_5), r"conv1 must be a density in \[0, 1\], got 1.5"),
    ],
)
def test_what_is_no_distribution_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        densities(*arguments)


def test_whole_numbers_that_cannot_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match=r"total must be what .* got 9"):
        rounded({"a": 0.5, "b": 0.5}, {"a": 4, "b": 4}, 9)


def scores(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw).abs() for name, shape in LENET_300_100.items()}


@pytest.mark.parametrize("kind", ["uniform", "er", "erk", "global"])
@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.9, 0.98])
def test_masks_have_the_stated_sparsity_to_the_entry(kind, sparsity) -> None:
    masks = select(scores(), kind, sparsity)
    assert sum(int(mask.sum()) for mask in masks.values()) == round((1 - sparsity) * 266_200)
    assert {name: tuple(mask.shape) for name, mask in masks.items()} == LENET_300_100
    for name, score in scores().items():
        mask = masks[name]
        assert not bool((~mask).any()) or score[~mask].max() <= score[mask].min()


def test_one_threshold_over_all_is_one() -> None:
    given, masks = scores(), select(scores(), "global", 0.9)
    stay = torch.cat([given[name][mask] for name, mask in masks.items()])
    go = torch.cat([given[name][~mask] for name, mask in masks.items()])
    assert go.max() <= stay.min()


@pytest.mark.parametrize("kind", ["uniform", "erk", "global"])
def test_stated_layers_are_as_stated_and_the_others_have_the_sparsity(kind) -> None:
    masks = select(scores(), kind, 0.9, fixed={"fc3": 1.0, "fc2": 0.25})
    assert [int(masks[name].sum()) for name in LENET_300_100] == [23_520, 7_500, 1_000]
    assert [int(m.sum()) for m in select(scores(), {"fc1": 0.1, "fc2": 0.2, "fc3": 0.3}).values()] == [
        23_520,
        6_000,
        300,
    ]


def test_all_zero_scores_are_drawn_and_apart_in_each_layer() -> None:
    zeros = {"a": torch.zeros(40, 40), "b": torch.zeros(40, 40)}
    first, second = (select(zeros, "uniform", 0.5, seed=seed) for seed in (0, 1))
    assert int(first["a"].sum()) == int(first["b"].sum()) == 800
    assert not torch.equal(first["a"], first["b"])
    assert not torch.equal(first["a"], second["a"])


def test_a_score_that_is_no_number_names_its_layer() -> None:
    with pytest.raises(ValueError, match="fc2: 30000 of its scores are NaN"):
        select({**scores(), "fc2": torch.full((100, 300), float("nan"))}, "global", 0.5)
