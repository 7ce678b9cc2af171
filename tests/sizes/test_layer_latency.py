"""The table of a layer: what lies between the widths that are measured, and the steps that times fall in."""

import pytest
import torch
from torch import nn

from ssl_prune import cost
from ssl_prune.sizes import layer_latency as module
from ssl_prune.sizes.layer_latency import Curve, LayerTimes, layer_times


def padded(step):
    """A clock that counts multiply-accumulates of channels rounded up to a step, and a tenth of the dense layer beside."""

    def seconds(layer, x, rounds):
        if isinstance(layer, nn.Linear):
            return 100.0 + up(layer.in_features, step) * up(layer.out_features, step)
        return 100.0 + up(layer.in_channels, step) * up(layer.out_channels, step) / layer.groups

    return seconds


def up(width, step):
    return -(-width // step) * step


@pytest.mark.parametrize("step", [1, 8, 16, 32])
@pytest.mark.parametrize("layer", [nn.Linear(64, 48), nn.Conv2d(64, 48, 3)], ids=["linear", "conv"])
def test_times_in_steps_are_found_and_foreseen(monkeypatch, layer, step):
    monkeypatch.setattr(module, "_seconds", padded(step))
    shape = torch.Size([4, 64]) if isinstance(layer, nn.Linear) else torch.Size([4, 64, 5, 5])
    times = layer_times(layer, shape, 3)
    assert times.written.step == step
    for read in (8, 17, 33, 64):
        for written in (1, 16, 24, 33, 48):
            expected = 100.0 + up(read, step) * up(written, step)
            # Between the widths that are measured a line; at steps of 32 and more each is measured.
            assert times(read / 64, written / 48) == pytest.approx(expected, rel=0.12 if 1 < step < 32 else 0.05)


def test_a_disturbed_measurement_does_not_make_more_channels_faster(monkeypatch):
    clock, calls = padded(1), []

    def seconds(layer, x, rounds):
        calls.append(layer)
        return clock(layer, x, rounds) * (5 if len(calls) == 3 else 1)

    monkeypatch.setattr(module, "_seconds", seconds)
    times = layer_times(nn.Linear(64, 64), torch.Size([4, 64]), 3)
    for curve in (times.read, times.written):
        assert curve.seconds == sorted(curve.seconds)


def test_a_depthwise_layer_shrinks_on_both_sides_at_once(monkeypatch):
    monkeypatch.setattr(module, "_seconds", lambda layer, x, rounds: float(cost(layer, x).macs))
    times = layer_times(nn.Conv2d(32, 32, 3, padding=1, groups=32), torch.Size([1, 32, 6, 6]), 3)
    assert times.read is None
    assert times(0.5, 0.5) == pytest.approx(times.dense / 2)
    assert times(0.5, 1.0) == times(0.5, 0.5)


def test_what_a_layer_of_one_channel_takes_remains():
    curve = Curve([1, 4], [5.0, 5.0])
    assert curve.step == 1
    assert LayerTimes(curve, curve, 5.0)(0.25, 0.5) == 5.0
    assert Curve([3], [2.0])(1) == 2.0
