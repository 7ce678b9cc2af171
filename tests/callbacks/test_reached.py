"""A stated size is met or its miss is said, however a run ends and whatever averages its weights."""

import copy
import json

import pytest
import torch
import wide
from fused import Fused
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from ssl_prune._lightning import pl
from ssl_prune.callbacks import Budget, GroupLasso, Penalise, Slim
from ssl_prune.penalties import L1

CALLBACKS = pl.callbacks


class Lit(wide.Lit):
    def __init__(self):
        super().__init__(sizes=(12, 16))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def loader():
    return wide.loader(160)


class Stop(pl.Callback):
    """Ends the run after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == self.epoch


def early():
    """Stops once the loss is no longer rising, which is at once."""
    return CALLBACKS.EarlyStopping("val_loss", patience=1, mode="max")


@pytest.mark.parametrize("stop", [lambda: Stop(2), early])
@pytest.mark.parametrize("slim", [True, False])
def test_a_run_that_stops_within_the_window_says_what_was_due_and_what_is_reached(trainer, tmp_path, stop, slim):
    budget = Budget(macs=0.5, path="budget.json")
    callbacks = [GroupLasso("coupled"), budget, stop(), *([Slim(None, latency_batch=0)] if slim else [])]
    run = trainer(*callbacks, epochs=10)
    words = "due 50.00% of the dense macs, reached .* of the dense macs: the run stopped at step .* ends at step 65"
    with pytest.warns(UserWarning, match=words):
        run.fit(Lit(), loader(), wide.loader(16))
    assert run.global_step < 65
    record = json.loads((tmp_path / "budget.json").read_text())
    assert record["limits"]["macs"] == 0.5 < record["reached"]["macs"] <= 1
    assert record["missed"].startswith("the run stopped at step")
    assert budget.reached.left == record["reached"]
    if slim:
        report = callbacks[-1].result.report
        assert report.budget == budget.reached
        assert report.budget.left["macs"] == report.macs[1] / report.macs[0]
        assert "MISSED" in str(report)


@pytest.mark.parametrize("slim", [True, False])
def test_a_size_that_is_met_is_said_in_the_report_alone(trainer, tmp_path, slim):
    budget, cut = Budget(macs=0.6, path="budget.json"), Slim(None, latency_batch=0)
    trainer(*[cut] * slim, GroupLasso("coupled"), budget, epochs=4).fit(Lit(), loader())
    record = json.loads((tmp_path / "budget.json").read_text())
    assert record["reached"]["macs"] == pytest.approx(record["left"]["macs"])
    assert record["reached"]["macs"] <= 0.6
    assert record["missed"] == ""
    assert not slim or cut.result.report.budget == budget.reached


def test_weights_that_take_the_place_of_the_zeros_are_said(trainer):
    class Restored(pl.Callback):
        """Weights of before, as averages of a library of its own would be."""

        def on_train_start(self, trainer, pl_module):
            self.before = copy.deepcopy(pl_module.state_dict())

        def on_train_end(self, trainer, pl_module):
            pl_module.load_state_dict(self.before)

    with pytest.warns(UserWarning, match=r"reached 100.00% of the dense macs: .* that had gone are not zero"):
        trainer(GroupLasso("coupled"), Budget(macs=0.6), Restored(), epochs=4).fit(Lit(), loader())


def ema():
    return CALLBACKS.WeightAveraging(avg_fn=get_ema_avg_fn(0.9))


def mean():
    return CALLBACKS.WeightAveraging()


def swa():
    return CALLBACKS.StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)


AVERAGES = {"ema": ema, "mean": mean, "swa": swa}


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("ema", True),
        ("mean", False),
        ("swa", True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("ema", False), ("mean", True), ("swa", False))),
    ],
)
def test_a_size_is_met_with_averaged_weights(trainer, kind, first):
    average, budget, cut = AVERAGES[kind](), Budget(macs=0.6), Slim(None, latency_batch=0)
    own = [GroupLasso("coupled"), budget]
    lit = Lit()
    trainer(*[average] * first, *own, *[average] * (not first), cut, epochs=4).fit(lit, loader())
    assert torch.equal(budget.solver.dead, ~budget.solver.groups.alive())
    assert cut.result.report.budget.left["macs"] <= 0.6
    assert not cut.result.report.budget.missed


@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("penalty", [lambda: GroupLasso("coupled", 0.0), lambda: Penalise(L1(), "weight", 0.0)])
def test_averages_are_those_of_the_dense_run_where_nothing_is_removed(trainer, kind, penalty):
    found = []
    for callbacks in ([], [penalty()]):
        lit = Lit()
        trainer(*callbacks, AVERAGES[kind](), epochs=3).fit(lit, loader())
        found.append(wide.flat(lit))
    assert (found[0] - found[1]).abs().max() <= 1e-6


def test_averages_are_their_own_but_where_a_channel_is_gone(trainer):
    class Beside(pl.Callback):
        """The same average, which knows no zeros."""

        def on_train_start(self, trainer, pl_module):
            self.average = torch.optim.swa_utils.AveragedModel(pl_module.net, avg_fn=get_ema_avg_fn(0.9))

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.average.update_parameters(pl_module.net)

    lit, beside, budget = Lit(), Beside(), Budget(macs=0.6)
    trainer(GroupLasso("coupled"), budget, beside, ema(), epochs=4).fit(lit, loader())
    assert budget.solver.dead.any()
    for p, q in zip(lit.net.parameters(), beside.average.module.parameters(), strict=True):
        assert torch.equal(torch.where(p == 0, p, q), p)


class Sequences(wide.Lit):
    """Attention whose code states the width of its heads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net, self.example_input_array = Fused(), torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(3))


def test_what_the_proof_would_keep_is_known_before_the_first_step(trainer):
    """Heads cannot go, since their width comes from the input: hidden units go in their place."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 5, 8, generator=generator), torch.randint(0, 3, (64,), generator=generator)
    data = DataLoader(TensorDataset(x, y), batch_size=16)
    budget, cut = Budget(macs=0.6), Slim(None, latency_batch=0)
    trainer(GroupLasso("coupled"), budget, cut, epochs=6).fit(Sequences(), data)
    assert 0.55 <= cut.result.report.budget.left["macs"] <= 0.6
    kept = budget.state_dict()["kept"]
    assert kept.any()
    assert budget.problem.parts.fixed[budget.problem.parts.of(kept)].all()
    again = Budget(macs=0.6)
    again.load_state_dict(budget.state_dict())
    assert torch.equal(again.state_dict()["kept"], kept)
