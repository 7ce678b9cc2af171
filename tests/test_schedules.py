from dataclasses import FrozenInstanceError
from math import nan

import pytest

from ssl_prune.schedules import Constant, Cosine, Cubic, Linear, Schedule, Step


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(), [1, 1, 1, 1, 1]),
        (Constant(final=0.5, start=1, end=3), [0, 0.5, 0.5, 0, 0]),
        (Constant(warmup=4), [0, 0.25, 0.5, 0.75, 1]),
        (Linear(end=4), [0, 0.25, 0.5, 0.75, 1]),
        (Linear(start=1, end=3, initial=2, final=1), [0, 2, 1.5, 1, 1]),
        (Cosine(end=4, initial=1, final=0), [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0]),
        (Cubic(end=4), [0, 1 - 27 / 64, 1 - 1 / 8, 1 - 1 / 64, 1]),
        (Cubic(end=2, initial=1, final=0), [1, 1 / 8, 0, 0, 0]),
        (Step(milestones=(1, 3), gamma=0.1, initial=2), [2, 0.2, 0.2, 0.02, 0.02]),
        (Linear(end=2, warmup=4), [0, 0.125, 0.5, 0.75, 1]),
    ],
    ids=str,
)
def test_values(schedule: Schedule, values: list[float]) -> None:
    assert [schedule.value(step) for step in range(5)] == pytest.approx(values)


def test_update_steps() -> None:
    assert [Constant(start=1, end=3).is_update(step) for step in range(4)] == [False, True, True, False]
    assert [Linear(start=1, end=2).is_update(step) for step in range(4)] == [False, True, True, True]


def test_epochs_are_fractions_of_steps() -> None:
    in_epochs, in_steps = Linear(start=0.5, end=2, unit="epochs"), Linear(start=5, end=20)
    for step in range(25):
        assert in_epochs.value(step, 10) == pytest.approx(in_steps.value(step))
        assert in_epochs.is_update(step, 10) == in_steps.is_update(step)


@pytest.mark.parametrize("steps_per_epoch", [None, 0, -1])
def test_epochs_need_their_length(steps_per_epoch: int | None) -> None:
    with pytest.raises(ValueError, match=r'Constant\(unit="epochs"\) needs steps_per_epoch > 0'):
        Constant(unit="epochs").value(3, steps_per_epoch)


def test_frozen_and_comparable() -> None:
    assert Cubic(end=3) == Cubic(end=3)
    with pytest.raises(FrozenInstanceError):
        Cubic(end=3).end = 4  # type: ignore[misc]
    assert Step(milestones=[1, 2]) == Step(milestones=(1, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Constant, {"unit": "batches"}, "unit must be"),
        (Constant, {"start": -1}, "start must be a number >= 0"),
        (Constant, {"warmup": nan}, "warmup must be a number >= 0"),
        (Constant, {"start": 5, "end": 4}, "end must be a number >= 5"),
        (Constant, {"final": -1}, "final must be"),
        (Linear, {"start": 4, "end": 4}, "end must be after start=4"),
        (Cubic, {"end": float("inf")}, "end must be a number"),
        (Cosine, {"end": 1, "initial": nan}, "initial must be"),
        (Step, {"milestones": (3, 2)}, "milestones must rise"),
        (Step, {"milestones": (-1,)}, "milestones must be"),
        (Step, {"milestones": (), "gamma": -1}, "gamma must be"),
    ],
)
def test_bad_settings(kind: type[Schedule], settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: {message}"):
        kind(**settings)  # type: ignore[arg-type]
