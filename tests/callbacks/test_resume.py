"""A run that stopped and went on equals one that did not."""

import pytest
import torch
from wide import Save

from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, GroupLasso
from ssl_prune.schedules import Cosine, Linear

STRONG = {"include": "conv*", "strength": 1.0}


def proximal():
    return [GroupLasso("filter", freeze_at="2ep", **STRONG)]


def in_epochs():
    return [
        GroupLasso(
            "filter",
            0.5,
            schedule=Cosine(end="2ep", final=20.0),
            freeze_at="3ep",
            include="conv*",
        )
    ]


def share_of_the_run():
    return [GroupLasso("coupled", 4.0, preconditioned=True, freeze_at="0.5", schedule=Linear(end="6it"))]


def subgradient():
    return [GroupLasso("filter", 0.3, solver="subgradient", threshold=0.1, include="conv*", freeze_at="2ep")]


def several():
    return [
        GroupLasso("filter", include="conv1", strength=1.0),
        GroupLasso("filter", include="conv2", strength=0.7, freeze_at="1ep"),
        L1(0.01, include="fc"),
    ]


@pytest.mark.parametrize("callbacks", [proximal, in_epochs, share_of_the_run, subgradient, several])
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_resumed_run_equals_one_that_was_not_stopped(kit, trainer, tmp_path, callbacks, epoch):
    options = {"epochs": 4, "accumulate_grad_batches": 2}
    straight, first = kit.Lit(), callbacks()
    run = trainer(*first, Save(tmp_path), **options)
    run.fit(straight, kit.loader())

    model, second = kit.Lit(), callbacks()
    again = trainer(*second, **options)
    again.fit(model, kit.loader(), ckpt_path=tmp_path / f"{epoch}.ckpt", weights_only=True)

    assert again.global_step == run.global_step == 8
    assert torch.equal(kit.flat(model), kit.flat(straight))
    for a, b in zip(first, second, strict=True):
        assert a.solver.step_count == b.solver.step_count == 8
        assert a.solver.frozen == b.solver.frozen
        assert a.solver.current_strength == b.solver.current_strength
        assert torch.equal(a.groups.alive(), b.groups.alive())
    assert not all(bool(c.groups.alive().all()) for c in first)


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.parametrize("step", [2, 4])
def test_a_checkpoint_in_the_middle_of_an_epoch(kit, trainer, tmp_path, step):
    def run(callback, **resume):
        keep = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer(callback, keep, epochs=2, enable_checkpointing=True).fit(kit.Lit(), kit.loader(), **resume)

    first, second = (GroupLasso("filter", freeze_at="0.5", **STRONG) for _ in range(2))
    run(first)
    run(second, ckpt_path=tmp_path / f"step={step}.ckpt", weights_only=True)
    assert second.solver.step_count == first.solver.step_count == 6  # not the weights: Lightning reads other batches
    assert second.solver.frozen


def test_every_callback_finds_its_own_state(kit, trainer, tmp_path):
    first = several()
    trainer(*first, Save(tmp_path), epochs=2).fit(kit.Lit(), kit.loader())
    states = torch.load(tmp_path / "1.ckpt", weights_only=True)["callbacks"]
    masks = [states[c.state_key]["solver"]["mask"] for c in first]
    assert len({c.state_key for c in first}) == 3
    assert masks[0] is None
    assert masks[2] is None
    assert masks[1]["groups"] == 5


def test_two_callbacks_that_cannot_be_told_apart_are_refused(kit, trainer):
    with pytest.raises(RuntimeError, match="more than one stateful callback"):
        trainer(GroupLasso("filter", 0.1), GroupLasso("filter", 0.2)).fit(kit.Lit(), kit.loader())


def test_a_second_fit_of_the_same_trainer_goes_on(kit, trainer):
    def run(*lengths):
        model, callback = kit.Lit(scheduler=False), GroupLasso("filter", schedule=Linear(end="9it"), **STRONG)
        one = trainer(callback, epochs=lengths[0])
        for length in lengths:
            one.fit_loop.max_epochs = length
            one.fit(model, kit.loader())
        return callback.solver.step_count, one.global_step

    assert run(2, 4) == run(4) == (12, 12)


def test_state_that_was_loaded_is_not_lost_by_saving_early(kit, trainer, tmp_path):
    first = GroupLasso("filter", **STRONG)
    trainer(first, Save(tmp_path)).fit(kit.Lit(), kit.loader())
    second = GroupLasso("filter", **STRONG)
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["solver"]["step_counts"] == [3]


def test_a_run_that_breaks_off_leaves_no_hook(kit, trainer):
    class Fails(kit.Lit):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                raise RuntimeError("broken")
            return super().training_step(batch, batch_idx)

    model = Fails()
    run = trainer(GroupLasso("filter", **STRONG))
    with pytest.raises(RuntimeError, match="broken"):
        run.fit(model, kit.loader())
    assert not run.optimizers[0]._optimizer_step_post_hooks
