"""The network as it was teaches what is left of it, beside a budget and by itself."""

import pytest
import torch
import wide
from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.callbacks import Budget, Distill, GroupLasso


class Lit(wide.Lit):
    def __init__(self, optimizer=None):
        super().__init__(optimizer, sizes=(24, 32), decay=1.0)


def loader():
    return wide.loader(320)


class Gradients(pl.Callback):
    """Gradients of each step, and the weights they were taken at."""

    def __init__(self):
        self.weights, self.seen = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.weights.append(({k: v.clone() for k, v in pl_module.state_dict().items()}, batch))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append([p.grad.clone() for p in pl_module.parameters()])

    def check(self, step, teacher, weight, temperature):
        """The gradient of a step is that of the loss and `weight` times the term, written out."""
        state, batch = self.weights[step]
        student = Lit()
        student.load_state_dict(state)
        student.train()
        with torch.no_grad():
            target = (teacher.net.eval()(batch[0]) / temperature).log_softmax(-1)
        logits = student(batch[0])
        kl = (target.exp() * (target - (logits / temperature).log_softmax(-1))).sum(-1).mean()
        (nn.functional.cross_entropy(logits, batch[1]) + weight * temperature**2 * kl).backward()
        for got, p in zip(self.seen[step], student.parameters(), strict=True):
            torch.testing.assert_close(got, p.grad, rtol=1e-4, atol=1e-6)


def test_a_teacher_adds_its_term_after_the_window_alone(trainer):
    lit, budget, record = Lit(), Budget(macs=0.5), Gradients()
    distill = Distill(0.7, temperature=3.0)
    trainer(distill, GroupLasso("coupled"), budget, record, epochs=8).fit(lit, loader())
    teacher = Lit()
    teacher.net = distill.distillation.teacher
    frozen = budget.solver.last + 1
    for step, weight in ((0, 0.0), (budget.solver.first + 3, 0.0), (frozen, 0.7), (len(record.seen) - 1, 0.7)):
        record.check(step, teacher, weight, 3.0)


@pytest.mark.slow
def test_a_run_with_a_teacher_goes_on_to_the_same_numbers(trainer, tmp_path):
    whole = Lit()
    trainer(GroupLasso("coupled"), Budget(macs=0.5), Distill(), wide.Save(tmp_path), epochs=8).fit(whole, loader())
    for epoch in (0, 3, 6):
        again = Lit()
        run = trainer(GroupLasso("coupled"), Budget(macs=0.5), Distill(), epochs=8)
        run.fit(again, loader(), ckpt_path=tmp_path / f"{epoch}.ckpt")
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1}, "weight must be"),
        ({"weight": 0}, "weight must be"),
        ({"temperature": 0}, "temperature must be"),
        ({"start": 0.5}, "start: got 0.5, expected a time with its unit"),
    ],
)
def test_a_distillation_that_is_none_is_refused(options, message):
    with pytest.raises(ValueError, match=f"Distill: {message}"):
        Distill(**options)


def test_without_a_time_or_a_budget_it_is_refused_before_a_step(trainer):
    run = trainer(GroupLasso("coupled", 0.1), Distill())
    with pytest.raises(ValueError, match="Distill: give a start"):
        run.fit(Lit(), loader())
    assert run.global_step == 0


@pytest.mark.parametrize(
    "callbacks",
    [
        lambda: [GroupLasso("coupled"), Budget(macs=0.5, window=("0.1", "1.0")), Distill()],
        lambda: [GroupLasso("coupled", 0.1), Distill(start="1.0")],
    ],
)
def test_a_term_that_would_never_count_is_refused(trainer, callbacks):
    run = trainer(*callbacks(), epochs=2)
    with pytest.raises(ValueError, match="Distill: "):
        run.fit(Lit(), loader())
    assert run.global_step == 0


@pytest.mark.parametrize("start", [0, "0.5"])
def test_by_itself_it_starts_at_its_time(trainer, start):
    lit, distill, record = Lit(), Distill(0.7, start=start), Gradients()
    trainer(GroupLasso("filter", 0.5), distill, record, epochs=2).fit(lit, loader())
    first = 20 if start else 0
    teacher = Lit()
    teacher.load_state_dict(record.weights[first][0])
    taught = distill.distillation.teacher.state_dict()
    assert all(torch.equal(taught[name], value) for name, value in teacher.net.state_dict().items())
    for step, weight in ((0, 0.7 if not start else 0.0), (first + 1, 0.7), (len(record.seen) - 1, 0.7)):
        record.check(step, teacher, weight, 2.0)


def test_a_new_run_has_a_teacher_of_its_own(trainer):
    distill, first, second = Distill(start="0.5"), Lit(), Lit()
    for lit in (first, second):
        trainer(GroupLasso("filter", 0.5), distill).fit(lit, loader())
    assert torch.equal(wide.flat(first), wide.flat(second))


def test_a_teacher_that_a_budget_kept_is_found(trainer, tmp_path):
    """Checkpoints of earlier versions have it in the state of the `Budget`."""
    whole = Lit()
    trainer(GroupLasso("coupled"), Budget(macs=0.5), Distill(), wide.Save(tmp_path), epochs=4).fit(whole, loader())
    checkpoint = torch.load(tmp_path / "2.ckpt", weights_only=True)
    checkpoint["callbacks"]["Budget"]["teacher"] = checkpoint["callbacks"].pop("Distill")["teacher"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    again = Lit()
    run = trainer(GroupLasso("coupled"), Budget(macs=0.5), Distill(), epochs=4)
    run.fit(again, loader(), ckpt_path=tmp_path / "old.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
