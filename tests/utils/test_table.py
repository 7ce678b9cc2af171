import pytest

from ssl_prune.utils.numbers import number, percent
from ssl_prune.utils.table import table


def test_numbers_stand_right_and_text_left():
    text = table(["layer", "MACs", "share"], [["a", 1_000_000, "50.0 %"], ["longer", 1, "-0.5 %"]])
    assert text.splitlines()[0] == "layer         MACs    share"
    assert text.splitlines()[2:] == ["a        1,000,000   50.0 %", "longer           1   -0.5 %"]


def test_title_total_and_empty_cells():
    lines = table(["layer", "n"], [["a", None], ["b", 2]], title="Slim", total=["total", 2]).splitlines()
    assert lines[0] == "Slim"
    assert [line.split() for line in lines[3:5]] == [["a"], ["b", "2"]]
    assert set(lines[5]) == {"─"}
    assert lines[6].split() == ["total", "2"]


def test_names_in_brackets_and_long_ones_stay_whole():
    name = "[red]" + "x" * 500
    assert name in table(["layer"], [[name]])


def test_nothing_for_a_terminal_in_the_text(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = table(["layer"], [["a"]], title="t")
    assert "\x1b" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_an_empty_table_is_its_head():
    assert table(["layer", "n"], []).splitlines()[0].split() == ["layer", "n"]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"\['a'\] has 1 cells, expected 2"):
        table(["layer", "n"], [["a"]])


def test_numbers():
    assert [number(x) for x in (1234, 0.5, 123456.0, True, None, "x")] == ["1,234", "0.5", "1.235e+05", "True", "", "x"]
    assert [percent(1, 4), percent(3, 0)] == ["25.0 %", "-"]
