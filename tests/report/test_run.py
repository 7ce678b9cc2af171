"""The record of a run: there and back, and what is no such record."""

import math

import pytest
import torch
from torch import nn

from ssl_prune import SlimError, slim
from ssl_prune.report.run import Evaluation, RunReport


@pytest.fixture
def cut():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        net[0].weight[:2] = 0
        net[0].bias[:1] = 0
        net[0].bias[1] = 1
    return slim(net, torch.randn(1, 1, 4, 4)).report


EVALUATIONS = (Evaluation("validation", 24, 1e-7, (0.5, 0.25)), Evaluation("test", 1234, 0.0))


@pytest.mark.parametrize("evaluations", [(), EVALUATIONS, (Evaluation("test", 1, math.inf),)])
@pytest.mark.parametrize("latency", [None, (0.002, 0.001)])
def test_there_and_back(cut, tmp_path, evaluations, latency):
    report = RunReport(cut, evaluations, latency, 64, "Net")
    report.save(tmp_path / "a.json")
    assert RunReport.load(tmp_path / "a.json") == report


def test_the_table(cut):
    said = str(RunReport(cut, EVALUATIONS, (0.002, 0.001), 64, "Net"))
    assert "validation accuracy, 24 samples" in said
    assert "50.00%" in said
    assert "25.00%" in said
    assert "largest output difference, test" in said
    assert "test accuracy" not in said
    assert "latency of 64 samples, ms" in said
    assert "2.000" in said
    assert str(cut) in said
    assert str(RunReport(cut)) == str(cut)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"\xff", b"[]", b"3", b"null", b"{}", b'{"slim": 3}', b'{"slim": {"kept": [], "layers": [3]}}',
        b'{"slim": {"kept": 1, "layers": []}}', b'{"slim": {"kept": [], "layers": []}, "evaluations": [], "batch": 1}',
    ],
)  # fmt: skip
def test_what_is_no_report(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(SlimError, match=r"a\.json: not a run report .* expected the \.json beside a slim file"):
        RunReport.load(tmp_path / "a.json")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"b\.json"):
        RunReport.load(tmp_path / "b.json")


def test_the_picture(cut, tmp_path):
    pytest.importorskip("matplotlib")
    RunReport(cut, network="Net").plot(tmp_path / "a.svg")
    assert "Net" in (tmp_path / "a.svg").read_text()
