"""A fit that cuts its network on the way: nothing else changes."""

import pytest
import torch
from torch import nn
from wide import Lit, Save, Wait, Wide, Zero, adamw, flat, frozen, loader, params

from ssl_prune import SlimError, cost, load_slim
from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, Budget, GroupLasso, Shrink, Slim, SparsityMonitor
from ssl_prune.scores import Movement


@pytest.mark.parametrize("dropout", [False, True])
def test_without_zeros_nothing_changes_bit_for_bit(trainer, dropout):
    losses = []
    for callbacks in ([], [Shrink(every_n_steps=2, min_gain=0.0)]):
        lit = Lit()
        if dropout:
            lit.net.fc2 = nn.Sequential(nn.Dropout(0.3), nn.Linear(16, 3))
        torch.manual_seed(5)
        trainer(*callbacks, epochs=2).fit(lit, loader())
        losses.append((lit.losses, flat(lit)))
    assert losses[0][0] == losses[1][0]
    assert torch.equal(losses[0][1], losses[1][1])


def test_widths_stay_multiples(trainer, tmp_path):
    lit, shrink = Lit(), Shrink(every_n_steps=4, min_gain=0.0, round_to=4)
    budget, slim = Budget(macs=0.5, every=2, round_to=4), Slim("net.safetensors", latency_batch=0, round_to=4)
    trainer(GroupLasso("coupled"), budget, shrink, slim, epochs=8).fit(lit, loader())
    assert shrink.history
    example = torch.zeros(1, 1, 6, 6)
    assert cost(lit.net, example).macs <= 0.5 * cost(Wide(), example).macs
    widths = {n for p in lit.net.parameters() for n in p.shape[:2]} - {1, 3}  # of the input and the output
    assert widths <= {4, 8, 12, 16} != widths
    groups = budget.solver.groups  # and no channel of them is one that went for nothing
    assert (torch.bincount(groups.layer, budget.solver.groups.alive().double()) % 4 == 0).all()
    assert torch.equal(budget.solver.dead, ~budget.solver.groups.alive())
    torch.testing.assert_close(load_slim(tmp_path / "net.safetensors", Wide()).eval()(example), lit.net.eval()(example))


@pytest.mark.parametrize("optimizer", [None, adamw], ids=["sgd", "adamw"])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.1}], ids=str)
def test_training_goes_on_as_without_a_cut(trainer, optimizer, options):
    runs = []
    for shrink in (False, True):
        lit, callbacks = Lit(optimizer, double=True), frozen()
        trainer(*callbacks[: 2 + shrink], epochs=4, **options).fit(lit, loader())
        runs.append((lit, callbacks))
    (dense, _), (slim, (lasso, _, shrink)) = runs
    assert len(shrink.history) == 1
    assert params(slim) < 0.8 * params(dense)
    torch.testing.assert_close(torch.tensor(slim.losses), torch.tensor(dense.losses), rtol=1e-8, atol=0)
    left = lasso.groups.alive()
    assert torch.equal(left, runs[0][1][0].groups.alive())
    assert 0 < int(left.sum()) < len(left)


@pytest.mark.parametrize("every", [10, 14])  # a cut at step 20, before the second fit begins; one at step 28, in it
def test_a_second_fit_of_the_same_trainer_goes_on(trainer, every):
    def run(*lengths):
        lit, shrink = Lit(), Shrink(every_n_steps=every, min_gain=0.0)
        one = trainer(GroupLasso("coupled", 0.1), Zero(), shrink, epochs=lengths[0])
        for length in lengths:
            one.fit_loop.max_epochs = length
            one.fit(lit, loader())
        return [entry[:-1] for entry in shrink.history]  # the last are seconds

    assert run(3, 4) == run(4) != []


def test_a_budget_is_met_and_the_file_maps_the_dense_network(trainer, tmp_path):
    lit, shrink, told = Lit(), Shrink(every_n_steps=8), Wait()
    slim = Slim("net.safetensors", latency_batch=0)
    budget = Budget(macs=0.4, every=2, path="budget.json")
    monitor = SparsityMonitor(prog_bar=False)
    run = trainer(GroupLasso("coupled"), L1(1e-5), budget, monitor, shrink, told, slim, epochs=10)
    run.fit(lit, loader())
    example = torch.zeros(1, 1, 6, 6)
    dense, now = cost(Wide(), example), cost(lit.net, example)
    assert 0.33 < now.macs / dense.macs <= 0.4
    assert len(shrink.history) == len(told.told) > 1
    shares = [macs for _, macs, _, _ in shrink.history]
    assert shares == sorted(shares, reverse=True)
    assert now.macs / dense.macs <= shares[-1] <= 0.45
    assert slim.result.report.macs == (dense.macs, now.macs)
    assert float(run.callback_metrics["macs_left"]) == pytest.approx(now.macs / dense.macs)
    loaded = load_slim(tmp_path / "net.safetensors", Wide()).eval()
    x = torch.randn(4, 1, 6, 6)
    torch.testing.assert_close(loaded(x), lit.net.eval()(x))
    assert budget.solver.groups.num_groups == len(budget.solver.dead)
    assert torch.equal(budget.solver.dead, ~budget.solver.groups.alive())


def test_a_score_that_knows_the_initial_weights_follows_a_cut(trainer):
    shrink, budget = Shrink(every_n_steps=4, min_gain=0.0), Budget(macs=0.4, every=2, score=Movement())
    trainer(GroupLasso("coupled"), budget, shrink, epochs=6).fit(Lit(), loader())
    assert shrink.history[0][0] < budget.solver.last
    assert budget.solver.frozen


@pytest.mark.slow
def test_times_are_compared_with_the_dense_network(trainer, monkeypatch):
    seen = []

    def compare(first, second, inputs, **_):
        """Multiply-accumulates in place of seconds: what is measured, without the noise."""
        seen.append((params(first), params(second)))
        return cost(first, inputs).macs, cost(second, inputs).macs

    monkeypatch.setattr("ssl_prune.budget.measure.compare_latency", compare)
    monkeypatch.setattr("ssl_prune.sizes.latency_model.latency", lambda model, inputs, **_: cost(model, inputs).macs)
    monkeypatch.setattr("ssl_prune.sizes.layer_latency._seconds", lambda layer, x, rounds: cost(layer, x).macs)
    lit, shrink, budget = Lit(), Shrink(every_n_steps=8, min_gain=0.02), Budget(latency=0.5, every=2, latency_batch=2)
    trainer(GroupLasso("coupled"), budget, shrink, Slim(None, latency_batch=0), epochs=8).fit(lit, loader())
    assert len(shrink.history) > 1
    assert {dense for dense, _ in seen} == {params(Lit())}
    left = [count for _, count in seen]
    assert len(set(left)) > 3
    assert params(lit) in left  # nothing is chosen that was not measured
    dense, now = (cost(net, torch.zeros(2, 1, 6, 6)).macs for net in (Wide(), lit.net))
    assert now / dense <= 0.5


class Whole(pl.LightningModule):
    """Its layers are its own, with no network inside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.bn = nn.Conv2d(1, 12, 3, bias=False), nn.BatchNorm2d(12)
        self.fc1, self.fc2 = nn.Linear(12 * 16, 16), nn.Linear(16, 3)
        self.example_input_array = torch.zeros(1, 1, 6, 6)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(torch.relu(self.bn(self.conv(x))).flatten(1))))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def test_layers_of_the_module_itself(trainer, tmp_path):
    def run(**options):
        model, shrink = Whole(), Shrink()
        trainer(GroupLasso("coupled"), Budget(macs=0.5, every=2), shrink, Save(tmp_path), epochs=6).fit(
            model, loader(), **options
        )
        return model, shrink

    straight, first = run()
    again, second = run(ckpt_path=tmp_path / "3.ckpt", weights_only=True)
    assert first.history[-1][1] <= 0.6
    assert len(second.history) == len(first.history)
    assert torch.equal(flat(again), flat(straight))
    assert params(again) < params(Whole())


def test_several_optimizers_and_manual_steps(trainer):
    class Manual(Lit):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

        def configure_optimizers(self):
            net = self.net
            convs = [*net.conv1.parameters(), *net.conv2.parameters(), *net.conv3.parameters()]
            convs += [*net.bn1.parameters(), *net.bn2.parameters(), *net.bn3.parameters()]
            lines = [*net.fc1.parameters(), *net.fc2.parameters()]
            return torch.optim.SGD(convs, lr=0.05, momentum=0.9), torch.optim.Adam(lines, lr=1e-3)

    lit, shrink = Manual(), Shrink(every_n_epochs=1)
    run = trainer(GroupLasso("coupled", 0.1), Zero(), shrink, epochs=4)
    run.fit(lit, loader())
    assert shrink.history
    held = [{id(p) for s in o.param_groups for p in s["params"]} for o in run.optimizers]
    assert held[0] | held[1] == {id(p) for p in lit.parameters()}
    assert not held[0] & held[1]
    assert all(torch.isfinite(p).all() for p in lit.parameters())


def test_half_precision_with_steps_that_are_skipped(trainer):
    """float16's scaler on the CPU, in manual optimisation; every third step meets an infinite gradient."""

    class Half(Lit):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.scaler, self.count = torch.amp.GradScaler("cpu", init_scale=4.0), 0

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            with torch.autocast("cpu", torch.float16):
                loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(self.scaler.scale(loss))
            self.count += 1
            if self.count % 3 == 0:
                self.net.fc2.weight.grad[0, 0] = float("inf")
            self.scaler.step(optimizer.optimizer)
            self.scaler.update()
            self.losses.append(float(loss.detach()))

        def configure_optimizers(self):
            return self.build(self.parameters())

    lit = Half()
    # The optimizer is stepped behind Lightning's back, so the steps that it counts stay at 0.
    shrink = Shrink()

    class Every(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            shrink.run(trainer, pl_module)

    lasso = GroupLasso("coupled", 0.1)
    trainer(lasso, Zero(), shrink, Every(), epochs=5).fit(lit, loader())
    assert shrink.history
    assert lasso.solver.step_count == 40 - 40 // 3
    assert all(torch.isfinite(p).all() for p in lit.parameters())
    assert lit.scaler.get_scale() < 4.0


@pytest.mark.filterwarnings("ignore:Using `torch.compile.module.` when there are global hooks")
@pytest.mark.parametrize("way", ["in place", "wrapped"])
def test_a_compiled_network_is_compiled_anew_after_a_cut(trainer, way):
    torch.compiler.reset()
    lit, shrink, compiled = Lit(), Shrink(), []

    def backend(graph, inputs):
        compiled.append({tuple(x.shape) for x in inputs if isinstance(x, nn.Parameter)})
        return graph.forward

    if way == "wrapped":
        lit.net = torch.compile(lit.net, backend=backend)
    else:
        lit.net.compile(backend=backend)
    trainer(GroupLasso("coupled", 0.1), Zero(), shrink, epochs=4, precision="bf16-mixed").fit(lit, loader())
    assert shrink.history
    now = {tuple(p.shape) for p in lit.parameters()}
    assert compiled[0] == {tuple(p.shape) for p in Lit().parameters()} != now
    assert compiled[-1] == now
    lit.eval()
    x = torch.randn(2, 1, 6, 6)
    torch.testing.assert_close(lit(x), getattr(lit.net, "_orig_mod", lit.net).forward(x))


def test_optimizer_hooks_and_schedules_stay(trainer):
    lit = Lit()
    seen = []

    class Hook(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.optimizers[0].register_step_post_hook(lambda *_: seen.append(1))

    callbacks = frozen()
    run = trainer(*callbacks, Hook(), epochs=4)
    run.fit(lit, loader())
    assert callbacks[2].history
    assert len(seen) == 32
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05 * 0.99**32)


def test_too_little_to_gain_is_left(trainer):
    shrink = Shrink(min_gain=0.99)
    lit = Lit()
    trainer(GroupLasso("coupled", 0.1), Zero(), shrink, epochs=4).fit(lit, loader())
    assert (shrink.history, params(lit)) == ([], params(Lit()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_epochs": 1, "every_n_steps": 1}, r"every_n_epochs or every_n_steps, got both"),
        ({"every_n_epochs": 0}, r"every_n_epochs must be a whole number >= 1, got 0"),
        ({"every_n_steps": 1.5}, r"every_n_steps must be a whole number >= 1, got 1.5"),
        ({"min_gain": 1.0}, r"min_gain must be a share in \[0, 1\), got 1.0"),
        ({"min_gain": float("nan")}, r"min_gain must be a share"),
        ({"tolerance": -1}, r"tolerance must be a finite number >= 0"),
        ({"round_to": 0}, r"round_to must be a whole number of channels >= 1, got 0"),
        ({"round_to": "measured"}, r"round_to must be a whole number of channels"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Shrink(**arguments)


def test_what_cannot_follow_is_refused_before_training(trainer):
    averaging = pl.callbacks.StochasticWeightAveraging(0.1)
    with pytest.raises(ValueError, match=r"StochasticWeightAveraging keeps a copy"):
        trainer(Shrink(), averaging).fit(Lit(), loader())
    ema = pl.callbacks.EMAWeightAveraging()
    with pytest.raises(ValueError, match=r"EMAWeightAveraging keeps a copy"):
        trainer(Shrink(), ema).fit(Lit(), loader())
    with pytest.raises(ValueError, match=r"module='net.conv1', but GroupLasso looks at module=None"):
        trainer(GroupLasso("coupled", 1.0), Shrink(module="net.conv1")).fit(Lit(), loader())
    with pytest.raises(SlimError, match=r"LBFGS keeps a history"):
        trainer(Shrink()).fit(Lit(torch.optim.LBFGS), loader())


def test_a_strategy_that_divides_parameters_is_refused(trainer):
    run = trainer(Shrink())
    run.strategy.__class__ = type("FSDPStrategy", (pl.strategies.Strategy,), dict(vars(pl.strategies.Strategy)))
    with pytest.raises(ValueError, match=r"FSDPStrategy divides or copies parameters"):
        run.callbacks[0].setup(run, Lit(), "fit")
