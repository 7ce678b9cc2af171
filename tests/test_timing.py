"""Times carry their unit, and no rounding moves them past a step."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_prune.timing import RunLength, Time

RUN = RunLength(steps=1000, steps_per_epoch=40)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("0.7", 700), ("1", 1000), (".5", 500), ("5ep", 200), ("0.5ep", 20), (" 1000 it ", 1000), (0, 0), ("0", 0)],
)
def test_a_time_is_read_with_its_unit(text: str, steps: float) -> None:
    assert Time.of(text).steps(RUN) == steps
    assert Time.of(Time.of(text)) == Time.of(text)


@pytest.mark.parametrize("value", [0.7, 1, 5, 1e-9, True, False, None, "5 epochs", "-1it", "1e3it", "ep", "", "nan"])
def test_what_could_be_meant_in_two_ways_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"freeze_at: got .*, expected a time with its unit: .*5ep"):
        Time.of(value, "freeze_at")  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "message"), [("1.5", "share of the run must be in"), ("0.5it", "whole number")])
def test_what_no_run_has_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"end: .*{message}"):
        Time.of(text, "end")


@settings(derandomize=True)
@given(st.integers(1, 10**6), st.integers(0, 10**4))
def test_the_share_of_a_step_is_that_step(steps: int, share: int) -> None:
    time, run = Time.of(f"{share / 10**4:.4f}"), RunLength(steps=steps)
    assert time.exact(run) == Fraction(share * steps, 10**4)
    assert time.first_step(run) == -(-share * steps // 10**4)


@settings(derandomize=True)
@given(st.one_of(st.floats(0, 1).map(lambda a: f"{a:.6f}"), st.integers(0, 99).map(lambda n: f"{n}ep")))
def test_it_is_written_as_it_is_read(text: str) -> None:
    assert Time.of(str(Time.of(text))) == Time.of(text)


def test_a_run_without_an_end_or_epochs_says_so() -> None:
    with pytest.raises(ValueError, match=r'window: "0.7" is a share of a run without an end; set max_epochs'):
        Time.of("0.7").steps(RunLength(steps_per_epoch=3), "window")
    with pytest.raises(ValueError, match=r'window: "7ep" is in epochs, but the training data has no length'):
        Time.of("7ep").steps(RunLength(steps=3), "window")
    assert Time.of(0).steps(RunLength()) == 0


@pytest.mark.parametrize("lengths", [{"steps": -1}, {"steps_per_epoch": 0}, {"steps_per_epoch": -1}])
def test_lengths_that_are_none_are_refused(lengths: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(lengths))} must be"):
        RunLength(**lengths)
