"""There and back: dense, narrow, narrower, wider; and the final file maps the dense network to the last width."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from ssl_prune import SlimError, SlimPlan, load_slim, save_slim, slim
from ssl_prune.checkpoints import load_weights
from ssl_prune.graph import trace
from ssl_prune.groups import partition
from ssl_prune.shrinking import Lineage, carry, follow_checkpoints, lineage_of, training_cut


class Around(nn.Module):
    """A module around a network, as a LightningModule is."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        follow_checkpoints(self)


def cut(kit, net, x, seeds=(1, 2), share=0.3):
    lineage = Lineage.of(net)
    for seed in seeds:
        kit.zeroed(net, x, share, seed)
        found = training_cut(net, x)
        lineage.cut(found.plan, removed=found.report.removed)
    return lineage


def test_two_cuts_are_one_plan_from_the_dense_network(kit, name):
    net, x = kit.made(name)
    lineage = cut(kit, net, x)
    fresh, _ = kit.made(name, seed=5)
    made = SlimPlan.from_json(lineage.plan.to_json()).apply(fresh)
    made.load_state_dict(net.state_dict())
    torch.testing.assert_close(made.eval()(x), net.eval()(x))
    assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in fresh.parameters())


def test_the_dense_twin_computes_the_same(kit, name):
    net, x = kit.made(name)
    lineage = cut(kit, net, x)
    dense = lineage.dense()
    fresh, _ = kit.made(name)
    shapes = lambda model: {n: t.shape for n, t in model.state_dict().items()}  # noqa: E731
    assert shapes(dense) == shapes(fresh)
    torch.testing.assert_close(dense.eval()(x), net.eval()(x), rtol=1e-4, atol=1e-5)


def test_growing_gives_the_dense_form_back(kit, name):
    net, x = kit.made(name)
    state = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        before = net.eval()(x)
    params, modules = dict(net.named_parameters()), dict(net.named_modules())
    cut(kit, net, x).grow()
    net.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(net(x), before)
    assert all(p is params[n] for n, p in net.named_parameters())
    assert dict(net.named_modules()) == modules
    assert lineage_of(net) is None
    net(x).sum().backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in net.parameters())


def test_a_state_dict_brings_its_widths(kit, name):
    saved = {}
    net, x = kit.made(name)
    source = Around(net)
    saved["dense"] = copy.deepcopy(source.state_dict()), net.eval()(x).detach()
    for width, seed in (("wider", 1), ("middle", 2), ("narrower", 3)):
        cut(kit, net, x, (seed,), 0.25)
        saved[width] = copy.deepcopy(source.state_dict()), net.eval()(x).detach()
    for start in ("dense", "middle"):
        other = Around(kit.made(name, seed=4)[0])
        for target in ("dense", "wider", "narrower"):
            other.load_state_dict(saved[start][0])
            state, outputs = saved[target]
            assert str(other.load_state_dict(state)) == "<All keys matched successfully>"
            torch.testing.assert_close(other.network.eval()(x), outputs)
            assert other.state_dict().keys() == state.keys()


class Bare(nn.Module):
    """A module that knows nothing of widths."""

    def __init__(self, network):
        super().__init__()
        self.network = network


def test_weights_from_a_file_bring_their_widths(kit, tmp_path):
    net, x = kit.made("residual")
    around = Around(net)
    cut(kit, net, x)
    torch.save({"state_dict": around.state_dict()}, tmp_path / "net.ckpt")
    outputs = net.eval()(x)
    for build in (Around, Bare, lambda network: network):
        fresh = build(kit.made("residual", seed=5)[0])
        load_weights(fresh, tmp_path / "net.ckpt")
        inner = getattr(fresh, "network", fresh)
        assert torch.equal(inner.eval()(x), outputs)
        assert slim(inner, x).report.params[0] == sum(p.numel() for p in kit.Residual().parameters())
    other = kit.made("plain")[0]
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(SlimError, match=r"conv1.weight: not in this Plain"):
        load_weights(other, tmp_path / "net.ckpt")
    assert all(torch.equal(t, before[n]) for n, t in other.state_dict().items())


def test_groups_of_the_dense_network_are_those_of_the_cut_one(kit):
    net, x = kit.made("residual")
    dense = partition(net, "coupled", graph=trace(net, x))
    kit.zeroed(net, x)
    alive = dense.alive()
    lineage = Lineage.of(net)
    origin = lineage.cut(training_cut(net, x).plan)
    carried = carry(dense, origin, net)
    fresh = partition(net, "coupled", graph=trace(net, x))
    whole = partition(lineage.dense(), "coupled", graph=trace(lineage.dense(), x))
    again = carry(whole, lineage.sources(), net)
    assert torch.equal(carried.alive(), alive)
    assert torch.equal(carried.norms()[alive], fresh.norms())
    assert torch.equal(carried.sizes[alive], fresh.sizes)
    for one, other in zip(carried.members, again.members, strict=True):
        assert one.name == other.name
        assert one.param is other.param
        assert torch.equal(one.index, other.index)
    assert carried.describe(int(alive.nonzero()[0])) == fresh.describe(0)


def test_groups_of_single_entries_are_those_that_are_left(kit):
    net, x = kit.made("residual")
    entries = partition(net, "weight")
    kit.zeroed(net, x)
    carried = carry(entries, Lineage.of(net).cut(training_cut(net, x).plan), net)
    fresh = partition(net, "weight")
    assert carried.num_groups == fresh.num_groups
    assert [carried.describe(g) for g in range(carried.num_groups)] == [
        fresh.describe(g) for g in range(fresh.num_groups)
    ]


def test_groups_of_a_branch_that_is_gone(kit):
    net, x = kit.made("residual")
    rows = partition(net, "filter", include=["conv2"], graph=trace(net, x))
    with torch.no_grad():
        for param in (net.conv3.weight, net.bn3.weight, net.bn3.bias):
            param.zero_()
    origin = Lineage.of(net).cut(training_cut(net, x).plan)
    assert carry(rows, origin, net) is None


def test_slim_of_a_cut_network_starts_at_the_dense_one(kit, name, tmp_path):
    net, x = kit.made(name)
    cut(kit, net, x)
    kit.zeroed(net, x, 0.2, seed=7)
    result = slim(net, x)
    fresh, _ = kit.made(name, seed=9)
    save_slim(tmp_path / "net.safetensors", result)
    loaded = load_slim(tmp_path / "net.safetensors", fresh)
    torch.testing.assert_close(loaded.eval()(x), net.eval()(x), rtol=1e-4, atol=1e-5)
    dense = slim(fresh, x).report
    assert result.report.params[0] == dense.params[0]
    assert result.report.macs[0] == dense.macs[0]
    before = {layer.name: layer.before for layer in result.report.layers}
    assert before == {layer.name: layer.before for layer in dense.layers if layer.name in before}
    assert str(result.report)


def test_nothing_holds_a_network_that_nobody_uses(kit):
    net, x = kit.made("residual")
    cut(kit, net, x)
    seen = weakref.ref(net)
    del net
    gc.collect()
    assert seen() is None


def test_a_checkpoint_of_another_network_is_refused_and_nothing_changes(kit):
    source, x = kit.made("residual")
    around = Around(source)
    cut(kit, source, x)
    other = Around(kit.made("plain")[0])
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(SlimError, match=r"conv1.weight: not in this Plain"):
        other.load_state_dict(around.state_dict())
    assert all(torch.equal(t, before[n]) for n, t in other.state_dict().items())


def test_a_damaged_entry_is_refused(kit):
    source, x = kit.made("residual")
    around = Around(source)
    cut(kit, source, x)
    state = around.state_dict()
    state["network.slim_widths"] = state["network.slim_widths"][:-20]
    with pytest.raises(SlimError, match=r"widths in this checkpoint cannot be read"):
        Around(kit.made("residual")[0]).load_state_dict(state)


def test_widths_for_a_module_that_is_not_there(kit):
    source, x = kit.made("residual")
    around = Around(source)
    cut(kit, source, x)
    other = nn.Sequential(kit.made("residual")[0])
    follow_checkpoints(other)
    with pytest.raises(SlimError, match=r"network: the checkpoint has widths for it, but this Sequential has no such"):
        other.load_state_dict(around.state_dict())
