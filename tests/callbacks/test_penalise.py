"""Any penalty as a callback: with its class path in a file, under every way of stepping, and found again in checkpoints."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, GroupLasso, Penalise
from ssl_prune.groups import Coupled, Weight
from ssl_prune.penalties import L1 as L1Penalty  # noqa: N811
from ssl_prune.penalties import GroupLasso as GroupLassoPenalty
from ssl_prune.penalties import GroupMCP, GroupSCAD, Penalty, SparseGroupLasso


@dataclass(frozen=True)
class Ridge(Penalty):
    """One of a user's own: it has what it must, and no more."""

    homogeneous: ClassVar[bool] = False

    def value(self, groups):
        return groups.total(groups.norms().square()) / 2

    def prox(self, groups, step):
        groups.scale_(torch.ones_like(groups.norms()) / (1 + step))

    def subdifferential_distance(self, groups, gradients, strength):
        both = [(g + strength * m.values).square() for g, m in zip(gradients, groups.members, strict=True)]
        return groups.sum(both).sqrt()


@pytest.mark.parametrize(
    ("thin", "whole"),
    [
        (
            lambda: GroupLasso("filter", 0.3, size_norm="sqrt"),
            lambda: Penalise(GroupLassoPenalty("sqrt"), "filter", 0.3),
        ),
        (lambda: GroupLasso("coupled", 0.3, l1_ratio=0.2), lambda: Penalise(SparseGroupLasso(0.2), Coupled(), 0.3)),
        (lambda: L1(0.02), lambda: Penalise(L1Penalty(), "weight", 0.02)),
    ],
)
def test_group_lasso_and_l1_are_thin(kit, trainer, thin, whole):
    found = []
    for build in (thin, whole):
        model = kit.Lit()
        trainer(build(), epochs=2).fit(model, kit.loader())
        found.append(kit.flat(model))
    assert (found[0] == 0).any()
    assert torch.equal(*found)


@pytest.mark.parametrize("penalty", [GroupMCP(gamma=2.0), GroupSCAD(knee=0.5)], ids=str)
def test_concave_penalties_make_zeros_and_leave_large_groups_alone(kit, trainer, penalty):
    model, callback = kit.Lit(), Penalise(penalty, "filter", 0.6, include="conv*")
    trainer(callback, epochs=4).fit(model, kit.loader())
    norms = callback.groups.norms()
    assert (norms == 0).any()
    assert (norms > 0).any()


def test_a_penalty_of_a_users_own(kit, trainer):
    model = kit.Lit()
    trainer(Penalise(Ridge(), "filter", 0.5), epochs=1).fit(model, kit.loader())
    with pytest.raises(
        TypeError, match=r"preconditioned=True needs a proximal map .* which Ridge\(\) has not; leave it"
    ):
        trainer(Penalise(Ridge(), "filter", 0.5, preconditioned=True)).fit(model, kit.loader())
    with pytest.raises(TypeError, match=r"needs a subgradient, which Ridge\(\) has not"):
        trainer(Penalise(Ridge(), "filter", 0.5, solver="subgradient")).fit(model, kit.loader())


def test_several_learning_rates_in_a_group_need_a_map_in_their_metric(kit, trainer):
    class Rates(kit.Lit):
        def configure_optimizers(self):
            biases = [p for n, p in self.named_parameters() if n.endswith("bias")]
            others = [p for n, p in self.named_parameters() if not n.endswith("bias")]
            return torch.optim.SGD([{"params": biases, "lr": 0.1}, {"params": others}], lr=0.2)

    trainer(GroupLasso("coupled", 0.5)).fit(Rates(), kit.loader())
    run = trainer(Penalise(GroupMCP(), "coupled", 0.5))
    with pytest.raises(ValueError, match="several learning rates, for which GroupMCP"):
        run.fit(Rates(), kit.loader())
    assert run.global_step == 0


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Penalise("lasso", "filter", 0.1), TypeError, "penalty must be an object of ssl_prune.penalties"),
        (lambda: Penalise(GroupMCP(), "coupled"), ValueError, r"penalty=GroupMCP\(.* would be lost"),
        (lambda: Penalise(GroupMCP(), "filter", 0.1, solver="gating"), ValueError, "gating.* makes a group lasso"),
        (lambda: L1(0.1, solver="gating"), ValueError, "gating.* makes a group lasso"),
        (lambda: GroupLasso("filter", 0.1, factors=3), ValueError, "factors=3 would be lost"),
        (lambda: GroupLasso("filter", 0.1, solver="gating", factors=1), ValueError, "factors must be"),
        (lambda: GroupLasso("filter", 0.1, threshold=0.1), ValueError, "threshold=0.1 would be lost"),
        (lambda: GroupLasso("filter", 0.1, solver="gating", preconditioned=True), ValueError, "leave one of them"),
        (lambda: GroupLasso("coupled", size_norm="sqrt"), ValueError, r"size_norm='sqrt'\) would be lost"),
        (lambda: GroupLasso("weight", 0.1, size_norm="sqrt"), ValueError, "size_norm='sqrt' would be lost"),
    ],
)
def test_what_cannot_be_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


OLD_KEYS = [
    (
        lambda: L1(0.1, include="conv*"),
        "L1{'granularity': 'entry', 'include': 'conv*', 'exclude': 'None', 'module': None}",
    ),
    (
        lambda: GroupLasso(Weight(), 0.1),
        "GroupLasso{'granularity': 'Entry()', 'include': 'None', 'exclude': 'None', 'module': None}",
    ),
    (
        lambda: GroupLasso("filter", 0.1, exclude="fc", module="net"),
        "GroupLasso{'granularity': 'filter', 'include': 'None', 'exclude': 'fc', 'module': 'net'}",
    ),
]


@pytest.mark.parametrize(("build", "key"), OLD_KEYS)
def test_a_state_is_found_under_the_key_it_was_first_written_with(build, key):
    assert build().state_key == key


def test_a_checkpoint_with_an_old_key_and_state_goes_on(kit, trainer, tmp_path):
    """As it was written when single weights were called entries."""
    callback = L1(0.01)
    trainer(callback, epochs=1).fit(kit.Lit(), kit.loader())
    run = trainer(L1(0.01), epochs=1, enable_checkpointing=False)
    run.fit(kit.Lit(), kit.loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    checkpoint["callbacks"] = {
        "L1{'granularity': 'entry', 'include': 'None', 'exclude': 'None', 'module': None}": {
            "solver": {"step_counts": [3], "strength": 0.5, "masks": None, "alive": None}
        }
    }
    torch.save(checkpoint, tmp_path / "old.ckpt")
    callback = L1(0.01)
    trainer(callback, epochs=2).fit(kit.Lit(), kit.loader(), ckpt_path=tmp_path / "old.ckpt")
    assert callback.solver.step_count == 6
    assert callback.solver.strength == 0.01


def test_penalties_of_one_class_have_keys_of_their_own(kit, trainer):
    first, second = Penalise(GroupMCP(), "filter", 0.1), Penalise(GroupSCAD(), "filter", 0.1)
    assert first.state_key != second.state_key
    trainer(first, second).fit(kit.Lit(), kit.loader())


class Manual(pl.LightningModule):
    """Steps by itself, as a user would."""

    def __init__(self, kit):
        super().__init__()
        self.automatic_optimization = False
        self.inner = kit.Lit(scheduler=False)
        self.example_input_array = self.inner.example_input_array

    def forward(self, x):
        return self.inner(x)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.inner.training_step(batch, batch_idx))
        optimizer.step()

    def configure_optimizers(self):
        return self.inner.configure_optimizers()


def test_gates_do_not_mind_who_steps(kit, trainer):
    automatic, manual = kit.Lit(scheduler=False), Manual(kit)
    for model in (automatic, manual):
        callback = GroupLasso("coupled", 0.8, solver="gating", threshold=0.05)
        trainer(callback, epochs=6).fit(model, kit.loader())
        assert not callback.groups.alive().all()
    torch.testing.assert_close(kit.flat(automatic), kit.flat(manual))


def lbfgs(params):
    return torch.optim.LBFGS(params, lr=0.5, max_iter=4, line_search_fn="strong_wolfe")


@pytest.mark.parametrize("optimizer", [None, lbfgs], ids=["sgd", "lbfgs"])
def test_a_gated_run_that_stopped_goes_on_to_the_same_numbers(kit, trainer, tmp_path, optimizer):
    def fit(epochs, **options):
        model = kit.Lit(optimizer=optimizer, scheduler=False)
        callback = GroupLasso("coupled", 0.3, solver="gating", factors=3, threshold=0.02, freeze_at="3ep")
        run = trainer(callback, epochs=epochs)
        run.fit(model, kit.loader(24), **options)
        run.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return model, callback

    whole, callback = fit(5)
    assert callback.solver.frozen
    with pytest.warns(UserWarning, match='freeze_at: got "3ep"'):
        fit(2)
    again, _ = fit(5, ckpt_path=tmp_path / "2.ckpt")
    assert torch.equal(kit.flat(whole), kit.flat(again))


def test_gates_follow_a_cut(kit, trainer):
    from ssl_prune.callbacks import Shrink

    model, shrink = kit.Lit(scheduler=False), Shrink(every_n_epochs=1, min_gain=0.0)
    callback = GroupLasso("coupled", 0.8, solver="gating", threshold=0.05)
    trainer(callback, shrink, epochs=8).fit(model, kit.loader())
    assert shrink.history
    plain = kit.Lit(scheduler=False)
    trainer(GroupLasso("coupled", 0.8, solver="gating", threshold=0.05), epochs=8).fit(plain, kit.loader())
    for x, _ in kit.loader(24):
        torch.testing.assert_close(model.eval()(x), plain.eval()(x), rtol=1e-3, atol=1e-4)
    assert isinstance(model.net.conv1, nn.Conv2d)
