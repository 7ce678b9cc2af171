"""Training with the callbacks equals a loop in plain PyTorch, bit for bit."""

import functools

import pytest
import torch
from torch import nn

from ssl_prune.callbacks import L1, GroupLasso
from ssl_prune.groups import partition
from ssl_prune.penalties import GroupLasso as Penalty
from ssl_prune.schedules import Linear
from ssl_prune.timing import RunLength


@functools.lru_cache(maxsize=1)
def filters(net):
    return partition(net, "filter", include="conv*", example_inputs=torch.zeros(1, 1, 6, 6))


def by_hand(kit, epochs, accumulate, clip, after_step, before_step=lambda net: None):
    """Three batches an epoch; a step on the last batch of an epoch even if the window is not full, as Lightning has it."""
    net = kit.Lit().net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    step = 0
    for _ in range(epochs):
        batches = list(kit.loader())
        for i, (x, y) in enumerate(batches):
            (nn.functional.cross_entropy(net(x), y) / accumulate).backward()
            if (i + 1) % accumulate and i + 1 < len(batches):
                continue
            before_step(net)
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
            after_step(net, optimizer.param_groups[0]["lr"], step)
            optimizer.zero_grad()
            schedule.step()
            step += 1
    return net


def shrink_filters(strength):
    @torch.no_grad()
    def act(net, lr, step):
        for conv in (net.conv1, net.conv2):
            norms = conv.weight.flatten(1).norm(dim=1)
            factor = (1 - lr * strength / norms).clamp(min=0)
            conv.weight.mul_(factor[:, None, None, None])

    return act


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_the_proximal_solver_equals_a_loop_written_out(kit, trainer, accumulate, clip):
    model, callback = kit.Lit(), GroupLasso("filter", 0.4, include="conv*")
    run = trainer(callback, epochs=4, accumulate_grad_batches=accumulate, gradient_clip_val=clip)
    run.fit(model, kit.loader())
    expected = by_hand(kit, 4, accumulate, clip, shrink_filters(0.4))
    assert callback.solver.step_count == run.global_step == 4 * (3 if accumulate == 1 else 2)
    torch.testing.assert_close(kit.flat(model), kit.flat(expected), rtol=2e-5, atol=1e-6)
    dead = model.net.conv1.weight.flatten(1).norm(dim=1) == 0
    assert torch.equal(dead, expected.conv1.weight.flatten(1).norm(dim=1) == 0)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_bit_for_bit_with_the_same_proximal_map(kit, trainer, accumulate, clip):
    schedule = Linear(end="6it", initial=0.2, final=1.0)

    def act(net, lr, step):
        Penalty().prox(filters(net), lr * 0.5 * schedule.value(step, RunLength()))

    model = kit.Lit()
    callback = GroupLasso("filter", 0.5, include="conv*", schedule=schedule)
    trainer(callback, epochs=3, accumulate_grad_batches=accumulate, gradient_clip_val=clip).fit(model, kit.loader())
    assert torch.equal(kit.flat(model), kit.flat(by_hand(kit, 3, accumulate, clip, act)))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_the_subgradient_solver_equals_differentiating_the_sum(kit, trainer, accumulate, clip):
    # A share of the penalty belongs to each step and not to each micro-batch.
    def penalty_gradient(net):
        total = sum(conv.weight.flatten(1).norm(dim=1).sum() for conv in (net.conv1, net.conv2))
        (0.03 * total).backward()

    def threshold(net, lr, step):
        with torch.no_grad():
            for p in net.parameters():
                p[p.abs() < 1e-3] = 0

    model = kit.Lit()
    callback = GroupLasso("filter", 0.03, solver="subgradient", include="conv*", threshold=1e-3)
    trainer(callback, epochs=3, accumulate_grad_batches=accumulate, gradient_clip_val=clip).fit(model, kit.loader())
    expected = by_hand(kit, 3, accumulate, clip, threshold, penalty_gradient)
    torch.testing.assert_close(kit.flat(model), kit.flat(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("freeze_at", "step_of_freezing"),
    [("2ep", 6), ("0.75", 9), ("0.2", 3), ("1ep", 3), ("1.0", 12), ("7it", 7), (0, 0), (0.0, 0)],  # 2.4 steps are 3
)
def test_once_frozen_zeros_stay_and_nothing_else_is_shrunk(kit, trainer, freeze_at, step_of_freezing):
    masks = []

    @torch.no_grad()
    def act(net, lr, step):
        if step < step_of_freezing:
            Penalty().prox(filters(net), lr * 1.0)
        if step + 1 == step_of_freezing or step == step_of_freezing == 0:
            masks[:] = [(w.weight.flatten(1).norm(dim=1) > 0).float() for w in (net.conv1, net.conv2)]
        if step >= step_of_freezing:
            for conv, mask in zip((net.conv1, net.conv2), masks, strict=True):
                conv.weight.mul_(mask[:, None, None, None])

    model, callback = kit.Lit(), GroupLasso("filter", 1.0, include="conv*", freeze_at=freeze_at)
    trainer(callback, epochs=4).fit(model, kit.loader())
    assert torch.equal(kit.flat(model), kit.flat(by_hand(kit, 4, 1, None, act)))
    assert callback.solver.frozen
    assert not 0 < step_of_freezing < 12 or not masks[0].all()


def test_momentum_of_frozen_groups_does_not_bring_them_back(kit, trainer):
    model, callback = kit.Lit(), GroupLasso("coupled", 4.0, freeze_at="0.5")
    trainer(callback, epochs=4).fit(model, kit.loader())
    dead = model.net.conv1.weight.flatten(1).norm(dim=1) == 0
    assert dead.sum() > 0
    for tensor in (model.net.conv1.bias, model.net.bn.weight, model.net.bn.bias):
        assert not tensor[dead].any()


def test_bf16_mixed_trains_and_zeros_are_exact(kit, trainer):
    model, callback = kit.Lit(), GroupLasso("coupled", 4.0)
    trainer(callback, epochs=3, precision="bf16-mixed").fit(model, kit.loader())
    assert model.net.conv1.weight.dtype is torch.float32
    assert (model.net.conv1.weight.flatten(1).norm(dim=1) == 0).any()


class Scaled:
    """float16's scaler on the CPU, in manual optimisation; every third step meets an infinite gradient."""

    def __new__(cls, kit, poisoned):
        class Module(kit.Lit):
            def __init__(self):
                super().__init__(scheduler=False)
                self.automatic_optimization = False
                self.scaler, self.count = torch.amp.GradScaler("cpu", init_scale=4.0), 0

            def training_step(self, batch, batch_idx):
                optimizer = self.optimizers()
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
                self.manual_backward(self.scaler.scale(loss))
                if self.count in poisoned:
                    self.net.fc.bias.grad[0] = torch.inf
                self.count += 1
                self.scaler.step(optimizer.optimizer)
                self.scaler.update()

        return Module()


def test_steps_that_a_scaler_skips_have_no_proximal_map(kit, trainer):
    poisoned = {1, 4}
    model, callback = Scaled(kit, poisoned), GroupLasso("filter", 0.4, include="conv*")
    trainer(callback, epochs=2).fit(model, kit.loader())

    net = kit.Lit().net
    optimizer, scaler = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9), torch.amp.GradScaler("cpu", 4.0)
    for i, (x, y) in enumerate([*kit.loader(), *kit.loader()]):
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(net(x), y)).backward()
        if i in poisoned:
            net.fc.bias.grad[0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        if i not in poisoned:
            Penalty().prox(filters(net), 0.2 * 0.4)
    assert callback.solver.step_count == 4
    assert torch.equal(kit.flat(model), kit.flat(net))


def test_lbfgs_like_closures_count_one_step(kit, trainer):
    model = kit.Lit(optimizer=lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3), scheduler=False)
    callback = GroupLasso("filter", 0.1, include="conv*")
    trainer(callback, epochs=2).fit(model, kit.loader())
    assert callback.solver.step_count == 6


def test_l1_gives_single_zeros(kit, trainer):
    model, callback = kit.Lit(scheduler=False), L1(0.02, exclude="fc")
    trainer(callback, epochs=2).fit(model, kit.loader())
    zeros = [(p == 0).float().mean().item() for p in (model.net.conv1.weight, model.net.conv2.weight)]
    assert all(0 < share < 1 for share in zeros)
    assert (model.net.fc.weight != 0).all()
    assert callback.groups.num_groups == 6 * 9 + 5 * 54
