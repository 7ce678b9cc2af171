"""Triggers are functions of the step: nothing is lost at a boundary, and a resumed run fires as one that was not stopped."""

from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_prune.schedules import Constant, Inverse, Linear
from ssl_prune.timing import RunLength
from ssl_prune.triggers import At, Every, Stochastic, Trigger


def steps(trigger: Trigger, run: RunLength, upto: int = 200, key: str = "") -> list[int]:
    return [step for step in range(upto) if trigger.fires(step, run, key)]


@settings(derandomize=True)
@given(st.integers(1, 50), st.integers(1, 20))
def test_an_epoch_is_once_an_epoch(length: int, epochs: int) -> None:
    run = RunLength(length * epochs, length)
    assert steps(Every("1ep"), run, length * epochs) == list(range(0, length * epochs, length))


@settings(derandomize=True)
@given(st.integers(1, 10), st.integers(1, 4), st.integers(1, 300))
def test_parts_of_a_run_are_as_many_as_there_are(parts: int, digits: int, length: int) -> None:
    share = round(parts / 10**digits, digits)
    found = steps(Every(f"{share:.{digits}f}"), RunLength(length), length)
    expected = {-(-k * parts * length // 10**digits) for k in range(10**digits // parts + 1)}
    assert found == sorted(expected - {length})


@settings(derandomize=True)
@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 60))
def test_whole_steps_are_counted_from_the_start_to_the_end_and_with_it(period: int, start: int, more: int) -> None:
    found = steps(Every(f"{period}it", f"{start}it", f"{start + more}it"), RunLength())
    assert found == list(range(start, start + more + 1, period))


def test_times_between_two_steps_count_at_the_later_one() -> None:
    run = RunLength(steps_per_epoch=5)
    assert steps(Every("0.5ep"), run, 11) == [0, 3, 5, 8, 10]
    assert steps(Every("0.1ep"), run, 4) == [0, 1, 2, 3]  # two of them between the same steps
    assert steps(Every("0.5ep", end="0.5ep"), run) == [0, 3]  # 2.5 is not after the end
    assert steps(Every("0.5ep", "1it", "3it"), run) == [1]
    assert steps(At(["0.5ep", "4it"]), run) == [3, 4]  # type: ignore[arg-type]
    assert steps(At("0.07"), RunLength(steps=100)) == [7]


def test_an_end_before_the_start_is_never() -> None:
    assert steps(Every("1it", "2ep", "3it"), RunLength(steps_per_epoch=5)) == []


@settings(derandomize=True, max_examples=20)
@given(st.integers(0, 2**31), st.floats(0, 1), st.text(max_size=8))
def test_chance_is_a_function_of_seed_key_and_step(seed: int, probability: float, key: str) -> None:
    trigger, run = Stochastic(probability, seed), RunLength()
    whole = steps(trigger, run, 60, key)
    assert [step for step in range(30, 60) if Stochastic(probability, seed).fires(step, run, key)] == [
        step for step in whole if step >= 30
    ]


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.7, 1.0])
def test_chance_fires_as_often_as_it_says_and_apart_for_each_key(probability: float) -> None:
    found = {key: set(steps(Stochastic(probability), RunLength(), 4000, key)) for key in ("conv1", "conv2")}
    for fired in found.values():
        assert len(fired) / 4000 == pytest.approx(probability, abs=0.03)
    assert len(found["conv1"] & found["conv2"]) / 4000 == pytest.approx(probability**2, abs=0.03)
    assert set(steps(Stochastic(probability, seed=1), RunLength(), 4000, "conv1")) != found["conv1"] or probability in (
        0,
        1,
    )


def test_the_chance_of_surgery_falls_and_ends() -> None:
    run = RunLength(steps=4000)
    trigger = Stochastic(Inverse(gamma=1e-2, power=2.0))
    fired = steps(trigger, run, 4000)
    expected = [sum((1 + 1e-2 * t) ** -2.0 for t in range(a, b)) for a, b in ((0, 100), (100, 4000))]
    counted = [sum(a <= t < b for t in fired) for a, b in ((0, 100), (100, 4000))]
    assert counted == pytest.approx(expected, abs=12)
    ended = Stochastic(Constant(final=1.0, start="5it", end="0.5"))
    assert steps(ended, run, 4000) == list(range(5, 2000))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Every(100), "Every: period: got 100, expected a time with its unit"),
        (lambda: Every(0), "Every: period must be longer than 0"),
        (lambda: Every("1ep", start=3), "Every: start: got 3"),
        (lambda: Every("1ep", "5ep", "4ep"), "Every: end must not be before start='5ep', got '4ep'"),
        (lambda: At(()), "At: times must have at least one"),
        (lambda: At(3), "At: times: got 3"),
        (lambda: At(("1it", 7)), "At: times: got 7"),
        (lambda: Stochastic(1.5), "probability must be a number in"),
        (lambda: Stochastic("often"), "probability must be a number in"),
        (lambda: Stochastic(Linear(end="4it", final=2.0)).fires(3, RunLength()), "probability must be a number in"),
        (lambda: Every("0.1").fires(3, RunLength()), "share of a run without an end"),
        (lambda: At("1ep").fires(3, RunLength(steps=3)), "the training data has no length"),
    ],
)
def test_what_is_no_trigger_is_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_plain_data() -> None:
    assert At(["1ep"]) == At(("1ep",)) == At("1ep")  # type: ignore[arg-type]
    assert replace(Stochastic(0.5), seed=3) == Stochastic(0.5, 3)
    with pytest.raises(FrozenInstanceError):
        Every("1ep").period = "2ep"  # type: ignore[misc]
