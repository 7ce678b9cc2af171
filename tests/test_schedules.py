from dataclasses import FrozenInstanceError
from math import nan

import pytest

from ssl_prune.schedules import Constant, Cosine, Cubic, Inverse, Linear, Schedule, Step
from ssl_prune.timing import RunLength, Time

RUN = RunLength(steps=8, steps_per_epoch=2)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(), [1, 1, 1, 1, 1]),
        (Constant(final=0.5, start="1it", end="3it"), [0, 0.5, 0.5, 0, 0]),
        (Constant(warmup="2ep"), [0, 0.25, 0.5, 0.75, 1]),
        (Linear(end="4it"), [0, 0.25, 0.5, 0.75, 1]),
        (Linear(start="0.125", end="1.5ep", initial=2, final=1), [0, 2, 1.5, 1, 1]),
        (Cosine(end=Time(0.5, "run"), initial=1, final=0), [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0]),
        (Cubic(end="0.5"), [0, 1 - 27 / 64, 1 - 1 / 8, 1 - 1 / 64, 1]),
        (Cubic(end="1ep", initial=1, final=0), [1, 1 / 8, 0, 0, 0]),
        (Step(milestones=("1it", "1.5ep"), gamma=0.1, initial=2), [2, 0.2, 0.2, 0.02, 0.02]),
        (Linear(end="2it", warmup="4it"), [0, 0.125, 0.5, 0.75, 1]),
        (Inverse(start="1it", gamma=1.0, power=2.0, initial=0.5), [0, 0.5, 0.125, 0.5 / 9, 0.5 / 16]),
    ],
    ids=str,
)
def test_values(schedule: Schedule, values: list[float]) -> None:
    assert [schedule.value(step, RUN) for step in range(5)] == pytest.approx(values)


@pytest.mark.parametrize("steps", [100, 50, 700])
def test_no_rounding_moves_a_time_past_its_step(steps: int) -> None:
    for percent in range(100):  # 0.07 * 100 is more than 7 in binary numbers
        at = -(-percent * steps // 100)
        schedule = Constant(start=f"{percent / 100:.2f}")
        assert schedule.value(at, RunLength(steps)) == 1
        assert at == 0 or schedule.value(at - 1, RunLength(steps)) == 0


def test_a_run_without_an_end_is_refused_at_the_first_step() -> None:
    with pytest.raises(ValueError, match=r'Linear: end: "0.5" is a share of a run without an end'):
        Linear(start="3it", end="0.5").value(0, RunLength())
    with pytest.raises(ValueError, match=r"Step: milestones\[1\]: .* the training data has no length"):
        Step(milestones=("1it", "2ep")).value(0, RunLength(9))


def test_frozen_and_comparable() -> None:
    assert Cubic(end="3it") == Cubic(end="3it")
    with pytest.raises(FrozenInstanceError):
        Cubic(end="3it").end = "4it"  # type: ignore[misc]
    assert Step(milestones=["1it", "2it"]) == Step(milestones=("1it", "2it"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Constant, {"start": "-1it"}, "start: got '-1it', expected a time with its unit"),
        (Constant, {"warmup": nan}, "warmup: got nan"),
        (Constant, {"start": "5it", "end": "4it"}, "end must not be before start='5it', got '4it'"),
        (Constant, {"final": -1}, "final must be"),
        (Linear, {"end": 5}, "end: got 5, expected a time with its unit"),
        (Linear, {"end": 0.99}, "end: got 0.99"),
        (Linear, {"start": "4ep", "end": "4ep"}, "end must be after start='4ep'"),
        (Cubic, {"end": float("inf")}, "end: got inf"),
        (Cosine, {"end": "1", "initial": nan}, "initial must be"),
        (Step, {"milestones": ("3it", "2it")}, "milestones must rise"),
        (Step, {"milestones": 3}, r"milestones\[0\]: got 3"),
        (Step, {"milestones": (3,)}, r"milestones\[0\]: got 3"),
        (Step, {"milestones": (), "gamma": -1}, "gamma must be"),
        (Inverse, {"power": -1}, "power must be"),
    ],
)
def test_bad_settings(kind: type[Schedule], settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: {message}"):
        kind(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Linear(start="3it", end="1ep"), "Linear: end must be after start='3it', got '1ep'"),
        (Constant(start="3it", end="1ep"), "Constant: end must not be before"),
        (Step(milestones=("3it", "1ep")), "Step: milestones must rise"),
    ],
)
def test_the_order_of_times_in_two_units_shows_with_the_run(schedule: Schedule, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule.value(0, RUN)
