"""A stated size is met, and what cannot be met is refused before training."""

import json
from types import SimpleNamespace

import pytest
import torch
import wide
from torch import nn
from wide import Wide, adamw

from ssl_prune import SlimError, cost
from ssl_prune._lightning import pl
from ssl_prune.budget.record import RECORDED
from ssl_prune.callbacks import Budget, Distill, GroupLasso, Penalise, Slim
from ssl_prune.callbacks._timed import LatencyMeasurement
from ssl_prune.groups import Coupled
from ssl_prune.models import ViT
from ssl_prune.penalties import GroupLasso as GroupLassoPenalty
from ssl_prune.schedules import Cosine
from ssl_prune.scores import Gradient, LayerwiseRank, Magnitude, SecondOrder


class Lit(wide.Lit):
    def __init__(self, optimizer=None):
        super().__init__(optimizer, sizes=(24, 32), decay=1.0)


def loader():
    return wide.loader(320)


@pytest.mark.parametrize(
    ("limits", "optimizer"),
    [
        ({"macs": 0.5}, adamw),
        pytest.param({"macs": 0.25}, None, marks=pytest.mark.slow),
        pytest.param({"params": 0.5}, adamw, marks=pytest.mark.slow),
        ({"macs": 0.5, "params": 0.4}, None),
        ({"params": 3000}, None),
    ],
)
def test_the_stated_size_is_met(trainer, limits, optimizer):
    lit, budget, slim = Lit(optimizer), Budget(**limits), Slim(None, latency_batch=0)
    trainer(GroupLasso("coupled"), budget, slim, epochs=10).fit(lit, loader())
    dense, got = (cost(net, torch.zeros(1, 1, 6, 6)) for net in (Wide(24, 32), slim.result.model))
    excess = []
    for kind, value in limits.items():
        share = value if value <= 1 else value / getattr(dense, kind)
        excess.append(getattr(got, kind) / getattr(dense, kind) - share)
    assert max(excess) <= 0
    assert max(excess) >= -0.04  # a channel of these is up to 4 % of the network
    assert budget.solver.frozen


def test_what_went_is_zero_and_stays_zero(trainer):
    lit, budget = Lit(), Budget(macs=0.5)
    lasso = GroupLasso("coupled")
    trainer(lasso, budget, epochs=10).fit(lit, loader())
    solver = budget.solver
    assert torch.equal(solver.dead, ~solver.groups.alive())
    assert lasso.groups is solver.groups
    history = torch.tensor(solver.history, dtype=torch.float64)
    assert (history[:, 1].diff() <= 0).all()  # what is due falls
    assert (history[:, 2].diff() <= 0).all()  # what is gone does not come back


def test_a_state_without_a_plan_is_taken_over(trainer):
    budget = Budget(macs=0.5)
    trainer(GroupLasso("coupled"), budget, epochs=4).fit(Lit(), loader())
    state = budget.solver.state_dict()
    del state["plan"]  # as earlier versions saved it
    dead = budget.solver.dead.clone()
    budget.solver.load_state_dict(state)
    assert torch.equal(budget.solver.dead, dead)


@pytest.mark.parametrize("epochs", [(2, 4), pytest.param((0, 6), marks=pytest.mark.slow)], ids=str)
def test_a_run_that_stopped_goes_on_to_the_same_numbers(trainer, tmp_path, epochs):
    whole, first = Lit(), Budget(macs=0.5)
    trainer(GroupLasso("coupled"), first, wide.Save(tmp_path), epochs=8).fit(whole, loader())
    for epoch in epochs:
        again, budget = Lit(), Budget(macs=0.5)
        trainer(GroupLasso("coupled"), budget, epochs=8).fit(again, loader(), ckpt_path=tmp_path / f"{epoch}.ckpt")
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
        assert torch.equal(first.solver.dead, budget.solver.dead)
        assert first.solver.history == budget.solver.history
        assert torch.equal(first.solver.gone, budget.solver.gone)
        assert torch.equal(first.solver.keys, budget.solver.keys)


def test_sizes_are_logged(trainer):
    class Seen(pl.Callback):
        def __init__(self):
            self.values = []

        def on_train_epoch_end(self, trainer, pl_module):
            self.values.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("budget")})

    seen = Seen()
    trainer(GroupLasso("coupled"), Budget(macs=0.5), seen, epochs=8, log_every_n_steps=5).fit(Lit(), loader())
    assert {"budget_macs_due", "budget_macs_left", "budget_strength"} <= seen.values[-1].keys()


def test_another_score_may_choose(trainer):
    budget = Budget(macs=0.6, score=Magnitude(per_entry=True))
    trainer(GroupLasso("coupled"), budget, epochs=8).fit(Lit(), loader())
    assert budget.solver.dead.any()


def test_protected_layers_keep_their_channels(trainer):
    slim = Slim(None, latency_batch=0)
    trainer(GroupLasso("coupled", exclude="conv2"), Budget(macs=0.75), slim, epochs=8).fit(Lit(), loader())
    assert slim.result.model.conv2.out_channels == 24


def test_floors_are_kept(trainer):
    slim = Slim(None, latency_batch=0)
    trainer(GroupLasso("coupled"), Budget(params=0.4, min_keep_ratio=0.5), slim, epochs=10).fit(Lit(), loader())
    net = slim.result.model
    assert min(net.conv1.out_channels, net.conv2.out_channels) >= 12
    assert net.fc1.out_features >= 16


def test_the_order_of_callbacks_and_the_way_to_say_coupled_do_not_matter(trainer):
    """A lasso and a budget find each other whoever comes first, and an object says what its name says."""
    found = []
    for callbacks in (
        [GroupLasso("coupled"), Budget(macs=0.5)],
        [Budget(macs=0.5), GroupLasso("coupled")],
        [Budget(macs=0.5), GroupLasso(Coupled())],
        [Penalise(GroupLassoPenalty(), Coupled()), Budget(macs=0.5)],
    ):
        lit = Lit()
        trainer(*callbacks, epochs=2).fit(lit, loader())
        found.append(torch.cat([p.detach().flatten() for p in lit.parameters()]))
    assert (found[0] == 0).any()
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_the_same_callbacks_serve_several_fits_and_trainers(trainer):
    """What an earlier run left does not count: neither its budget nor its example, nor what was measured."""
    callbacks = GroupLasso("coupled"), Budget(macs=0.5, path="budget.json", metric="val_loss")
    lit = Lit()
    trainer(*callbacks, epochs=2).fit(lit, loader(), loader())
    again = trainer(*callbacks, epochs=2)
    with pytest.warns(UserWarning, match=r"budget\.json is there already"):
        again.fit(lit, loader(), loader())
    assert [step for step, _ in callbacks[1].measured] == [20, 40]
    again.callbacks.remove(callbacks[1])
    with pytest.raises(ValueError, match="give a strength, or a Budget beside it"):
        again.fit(lit, loader())


REFUSED = [
    (lambda: [GroupLasso("coupled"), GroupLasso(Coupled(), include="fc1"), Budget(macs=0.5)], "found 2 group lassos"),
    (lambda: [Budget(macs=0.5)], "found 0 group lassos without a strength"),
    (lambda: [GroupLasso("coupled", 0.1), Budget(macs=0.5)], "found 0 group lassos"),
    (lambda: [GroupLasso("coupled")], "give a strength, or a Budget beside it"),
    (lambda: [GroupLasso("coupled"), Budget(macs=0.001)], "cannot be reached: .* the network is at"),
    (lambda: [GroupLasso("coupled"), Budget(macs=0.3, min_keep_ratio=0.9)], "cannot be reached"),
    (lambda: [GroupLasso("coupled"), Budget(macs=1.0)], "is met already"),
    (lambda: [GroupLasso("coupled"), Budget(params=10**9)], "is met already"),
    (lambda: [GroupLasso("coupled"), Budget(macs=0.5, window=("0.1", "0.1001"))], "Budget: window: .* no step"),
    (
        lambda: [GroupLasso("coupled"), Budget(macs=0.5, window=("0.1", "3ep"))],
        "Budget: window: it ends at step 60 of a run of 40",
    ),
]


@pytest.mark.parametrize(("callbacks", "message"), REFUSED)
def test_what_cannot_be_is_refused_before_a_step(trainer, callbacks, message):
    lit = Lit()
    before = [p.clone() for p in lit.parameters()]
    with pytest.raises(ValueError, match=message):
        trainer(*callbacks(), epochs=2).fit(lit, loader())
    assert all(torch.equal(a, b) for a, b in zip(before, lit.parameters(), strict=True))


def test_a_run_without_an_end_is_refused(trainer):
    with pytest.raises(ValueError, match="the run has no end"):
        trainer(GroupLasso("coupled"), Budget(macs=0.5), epochs=-1, max_steps=-1).fit(Lit(), loader())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "at least one"),
        ({"macs": 0.5, "window": ("0.5", "0.2")}, "window: the last moment must be after"),
        ({"macs": 0.5, "window": ("0.1",)}, "window must be two times"),
        ({"macs": 0.5, "window": (0.1, 0.65)}, 'window: got 0.1, expected a time with its unit: "0.7"'),
        ({"macs": 0.5, "window": (0, 1)}, "window: got 1, expected a time with its unit"),
        ({"macs": 0.5, "window": (0, 0)}, "window: the last moment must be after"),
        (
            {"macs": 0.5, "window": Cosine(end="0.5", initial=1, final=0)},
            "window: the share of the way must go from 0 to 1",
        ),
        ({"macs": 0.5, "lookahead": 0.05}, "Budget: lookahead: got 0.05, expected a time with its unit"),
        ({"latency": 1.8}, "for milliseconds give latency_ms=1.8"),
        ({"latency_ms": 0.0}, "latency_ms must be milliseconds above 0"),
        ({"macs": 0.5, "window": None}, "window must be two times"),
        ({"latency": 0.5, "latency_batch": 0}, "latency_batch must be"),
        ({"macs": 0.5, "min_keep_ratio": 1.0}, "min_keep_ratio must be"),
        ({"macs": 0.5, "round_to": 0}, "round_to must be"),
        ({"macs": 0.5, "lookahead": 0}, "lookahead must be"),
        ({"macs": 0.5, "path": "budget.json", "metric": "left"}, "metric='left' would take the place of a decision"),
        ({"macs": 0.5, "cost_exponent": -1}, "cost_exponent must be"),
        ({"macs": 0.5, "cost_exponent": float("inf")}, "cost_exponent must be"),
        ({"macs": 0.5, "cost_exponent": float("nan")}, "cost_exponent must be"),
        ({"macs": -1}, "macs must be"),
        (
            {"macs": 0.5, "score": Gradient("task")},
            r'Budget: score needs .* Gradient\("task"\): gradients\["task"\] of',
        ),
        ({"macs": 0.5, "score": Magnitude() + SecondOrder()}, "Budget: score needs .* SecondOrder: curvature of"),
        ({"macs": 0.5, "score": LayerwiseRank(SecondOrder())}, "Budget: score needs .* SecondOrder: curvature of"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Budget(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "filter"}, 'only GroupLasso."coupled". goes without one'),
        ({"granularity": "coupled", "freeze_at": "0.5"}, "freeze_at at its default"),
        ({"granularity": "coupled", "solver": "subgradient"}, "at its default"),
    ],
)
def test_a_lasso_without_a_strength_leaves_the_rest_to_the_budget(options, message):
    with pytest.raises(ValueError, match=message):
        GroupLasso(**options)


def test_decisions_are_written_with_a_picture(trainer, tmp_path):
    trainer(GroupLasso("coupled"), Budget(macs=0.5, path="out/budget.json"), epochs=8).fit(Lit(), loader())
    record = json.loads((tmp_path / "out" / "budget.json").read_text())
    assert record["left"]["macs"] <= record["limits"]["macs"] == 0.5
    assert record.keys() == {*RECORDED, "val_acc"}
    assert record["history"][-1].keys() == {"step", "due", "left", "strength"}
    channels = {entry["name"]: entry for entry in record["channels"]}
    assert len(channels) == record["groups"][1]
    assert sum(entry["gone"] is None for entry in channels.values()) == record["groups"][0]
    assert "conv1 unit 0" in channels
    first, last = 16, 16 * 20 * 8 // 16  # the window is a part of the run
    assert all(entry["gone"] is None or first <= entry["gone"] <= last for entry in channels.values())
    assert all(entry["key"] is not None for entry in channels.values() if entry["gone"] is not None)
    assert (tmp_path / "out" / "budget.png").stat().st_size > 1000


def test_a_run_that_diverges_says_so(trainer):
    class Broken(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 20:
                pl_module.net.conv2.weight.data[3] = torch.nan

    with pytest.raises(SlimError, match="its weights are not finite at optimizer step"):
        trainer(GroupLasso("coupled"), Budget(macs=0.5), Broken(), epochs=8).fit(Lit(), loader())


class Opaque(Wide):
    """Code that torch.export refuses."""

    def forward(self, x):
        return super().forward(x) if float(x.sum()) != 7.0 else self.fc2(x.mean() * torch.ones(1, 32))


def test_a_network_that_only_the_second_tracer_follows_is_refused(trainer):
    lit = Lit()
    lit.net = Opaque()
    with pytest.raises(ValueError, match="known only where"):
        trainer(GroupLasso("coupled"), Budget(macs=0.5), epochs=2).fit(lit, loader())


def test_a_look_sees_the_network_without_what_is_dead(trainer, monkeypatch):
    looks, now = [], []

    def compare(first, second, inputs, **_):
        if now:  # not yet when the smallest network is timed
            sizes = budget.problem.sizes(budget.problem.parts.dead_units(now[-1]))
            looks.append((cost(second, inputs).macs, sizes["macs"]))
        assert all((p != 0).all() for p in first.parameters())  # which would make it too fast
        return cost(first, inputs).macs, cost(second, inputs).macs

    def measure(self, dead):
        now.append(dead.clone())
        return original(self, dead)

    original = LatencyMeasurement.__call__
    monkeypatch.setattr(LatencyMeasurement, "__call__", measure)
    monkeypatch.setattr("ssl_prune.budget.measure.compare_latency", compare)
    monkeypatch.setattr("ssl_prune.sizes.latency_model.latency", lambda model, inputs, **_: cost(model, inputs).macs)
    monkeypatch.setattr("ssl_prune.sizes.layer_latency._seconds", lambda layer, x, rounds: cost(layer, x).macs)
    lit, budget = Lit(), Budget(latency=0.5, latency_batch=2)
    # No activation: what is dead has a gradient, and every step moves it.
    lit.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 16, 2), nn.Flatten(), nn.Linear(16, 3))
    trainer(GroupLasso("coupled"), budget, epochs=4).fit(lit, loader())
    assert len({macs for macs, _ in looks}) > 3
    assert all(macs == expected for macs, expected in looks)
    assert 0.4 < budget.problem.left(budget.solver.dead)["latency"] <= 0.5


@pytest.mark.parametrize("smallest", [0.9, 0.4])
def test_a_latency_that_cannot_be_reached_is_said(trainer, monkeypatch, smallest):
    shares = [smallest]  # the first look, before training

    def compare(first, second, inputs, **_):
        return 1.0, shares.pop() if shares else 0.9

    monkeypatch.setattr("ssl_prune.budget.measure.compare_latency", compare)
    monkeypatch.setattr("ssl_prune.budget.measure.PLACES", 1)
    fit = trainer(GroupLasso("coupled"), Budget(latency=0.5, latency_batch=2), epochs=4).fit
    if smallest > 0.5:
        with pytest.raises(ValueError, match=r"cannot be reached: .* is at 90.00% of the dense latency"):
            fit(Lit(), loader())
    else:
        with pytest.warns(UserWarning, match="still measured 40.00% of the dense latency above what was stated, 50"):
            fit(Lit(), loader())


@pytest.mark.parametrize(("window", "batches"), [(("0.1", "0.65"), True), (("1ep", "5ep"), 3), (("10it", "99it"), 2)])
def test_a_dry_run_passes_and_leaves_all_channels(trainer, tmp_path, caplog, window, batches):
    lit, budget = Lit(), Budget(macs=0.5, window=window, lookahead="2ep", path="budget.json")
    with caplog.at_level("INFO"):
        trainer(GroupLasso("coupled"), budget, Distill(), fast_dev_run=batches).fit(lit, loader())
    assert "Budget: fast_dev_run is too short" in caplog.text
    assert budget.solver.step_count == int(batches)
    assert not budget.solver.dead.any()
    assert not list(tmp_path.iterdir())


def test_a_metric_that_nothing_logs_is_said():
    run = SimpleNamespace(sanity_checking=False, global_step=3, callback_metrics={"val_loss": torch.tensor(0.5)})
    budget = Budget(macs=0.5, path="budget.json", metric="val_f1")
    with pytest.warns(
        UserWarning, match=r"Budget: metric='val_f1' is not logged, expected one of what is: val_loss; log"
    ):
        budget.on_validation_end(run, None)
    known = Budget(macs=0.5, path="budget.json", metric="val_loss")
    for callback in (known, Budget(macs=0.5)):  # the default is not asked for
        callback.on_validation_end(run, None)
    assert known.measured == [(3, 0.5)]


def test_frozen_layers_are_said(trainer):
    lit = Lit()
    lit.net.conv2.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"Budget: conv2.weight is not trained .*, 1 such .* with exclude"):
        trainer(GroupLasso("coupled"), Budget(macs=0.8), fast_dev_run=True).fit(lit, loader())


def test_times_of_several_processes_are_refused(trainer, monkeypatch):
    monkeypatch.setattr(pl.Trainer, "world_size", property(lambda self: 2))
    with pytest.raises(ValueError, match="latency with 2 processes"):
        trainer(GroupLasso("coupled"), Budget(latency=0.5), epochs=2).fit(Lit(), loader())


@pytest.mark.slow
def test_a_transformer_gives_heads_and_hidden_units(trainer):
    class Patches(Lit):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.net = ViT(patch=2, width=24, depth=2, heads=4, in_channels=1, image_size=6, num_classes=3)

    slim = Slim(None, latency_batch=0)
    lit = Patches()
    dense = cost(lit.net, torch.zeros(1, 1, 6, 6)).macs
    trainer(GroupLasso("coupled"), Budget(macs=0.3), slim, epochs=8).fit(lit, loader())
    net = slim.result.model
    left = cost(net, torch.zeros(1, 1, 6, 6)).macs / dense
    assert 0.26 <= left <= 0.3
    rows = [block.attention.qkv.out_features for block in net.blocks]
    assert any(width < 3 * 24 for width in rows)
    assert all(width % (3 * 6) == 0 for width in rows)  # whole heads
    assert all(block.mlp[0].out_features < 96 for block in net.blocks)


def test_layers_that_cost_much_lose_less_where_a_time_is_stated():
    assert Budget(macs=0.5).options.cost_exponent == Budget(params=0.5).options.cost_exponent == 1.0
    assert Budget(latency=0.5).options.cost_exponent == Budget(params=0.5, latency=0.5).options.cost_exponent == 0.5
    assert Budget(latency_ms=0.5).options.cost_exponent == 0.5
    assert Budget(latency=0.5, cost_exponent=1.0).options.cost_exponent == 1.0
