"""Checkpoints of a fit that cuts its network: of any width, resumed, tested, copied."""

import copy

import pytest
import torch
from wide import Lit, Save, flat, frozen, loader, params

from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, Budget, Distill, GroupLasso, Shrink
from ssl_prune.models import ImageClassifier, ResNet
from ssl_prune.shrinking import follow_checkpoints, lineage_of


def with_a_penalty():
    return [GroupLasso("coupled", 0.8, freeze_at="4ep"), L1(1e-4, include="fc*"), Shrink(min_gain=0.0)]


def with_a_budget():
    return [GroupLasso("coupled"), Budget(macs=0.4, every=2), Distill(0.5), Shrink(every_n_steps=6, min_gain=0.02)]


@pytest.mark.parametrize(
    ("callbacks", "epoch", "example"),
    [
        pytest.param(with_a_penalty, 3, True, id="penalty"),
        pytest.param(with_a_budget, 1, False, id="budget"),
        pytest.param(with_a_penalty, 1, False, id="penalty-early", marks=pytest.mark.slow),
        pytest.param(with_a_budget, 3, True, id="budget-late", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_one_that_was_not_stopped(trainer, tmp_path, callbacks, epoch, example):
    straight, first = Lit(example=example), callbacks()
    trainer(*first, Save(tmp_path), epochs=6).fit(straight, loader())
    model, second = Lit(example=example), callbacks()
    again = trainer(*second, epochs=6)
    again.fit(model, loader(), ckpt_path=tmp_path / f"{epoch}.ckpt", weights_only=True)
    assert params(model) == params(straight) < params(Lit())
    assert torch.equal(flat(model), flat(straight))
    assert [e[:3] for e in first[-1].history] == [e[:3] for e in second[-1].history]
    assert len(first[-1].history) > 1
    assert torch.equal(first[0].groups.alive(), second[0].groups.alive())
    assert lineage_of(model.net).plan == lineage_of(straight.net).plan


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_checkpoints_of_any_width_can_be_tested(trainer, tmp_path):
    lit, shrink = Lit(), Shrink(every_n_steps=8)
    run = trainer(GroupLasso("coupled"), Budget(macs=0.4, every=2), shrink, Save(tmp_path), epochs=8)
    run.fit(lit, loader())
    expected, seen = {}, {}
    for epoch in (0, 3, 7):
        fresh = trainer(Shrink())
        expected[epoch] = fresh.test(
            Lit(), loader(), ckpt_path=tmp_path / f"{epoch}.ckpt", verbose=False, weights_only=True
        )
    for epoch in (7, 0, 3):  # narrower and wider than the network is
        seen[epoch] = run.test(lit, loader(), ckpt_path=tmp_path / f"{epoch}.ckpt", verbose=False, weights_only=True)
    assert seen == expected
    assert len({str(v) for v in seen.values()}) == 3


def test_the_best_checkpoint_of_a_run(trainer, tmp_path):
    keep = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val_loss", mode="max")  # the first one, which is wide
    lit = Lit()
    run = trainer(GroupLasso("coupled"), Budget(macs=0.4, every=2), Shrink(), keep, epochs=8, enable_checkpointing=True)
    run.fit(lit, loader(), loader())
    narrow = params(lit)
    run.test(lit, loader(), ckpt_path="best", verbose=False, weights_only=True)
    assert params(lit) > narrow


def test_load_from_checkpoint_knows_the_widths(trainer, tmp_path):
    torch.manual_seed(0)
    build = lambda: ResNet((1, 1, 1), (8, 8, 8), in_channels=1, image_size=6, num_classes=3)  # noqa: E731
    model = ImageClassifier(build(), optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    run = trainer(GroupLasso("coupled"), Budget(macs=0.5, every=2), Shrink(), epochs=6)
    run.fit(model, loader())
    run.save_checkpoint(tmp_path / "net.ckpt")
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "net.ckpt", network=build(), weights_only=True)
    x = torch.randn(3, 1, 6, 6)
    assert params(loaded) == params(model) < params(build())
    assert torch.equal(loaded.eval()(x), model.eval()(x))


def test_a_copy_of_the_module_can_go_on(trainer, tmp_path):
    lit = Lit()
    trainer(*frozen(), epochs=4).fit(lit, loader())
    twin = Lit()
    follow_checkpoints(twin)
    twin.load_state_dict(lit.state_dict())
    x = torch.randn(3, 1, 6, 6)
    assert torch.equal(twin.eval()(x), lit.eval()(x))
    trainer(GroupLasso("coupled", 0.1), Shrink(), epochs=1).fit(twin.train(), loader())


def test_the_state_is_plain_data(trainer, tmp_path):
    lit, callbacks = Lit(), frozen()
    run = trainer(*callbacks, epochs=4)
    run.fit(lit, loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert state["state_dict"]["net.slim_widths"].dtype == torch.uint8
    assert copy.deepcopy(state["callbacks"]["Shrink"]) == callbacks[2].state_dict()
