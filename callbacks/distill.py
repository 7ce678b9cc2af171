"""The network as it was teaches what is left of it."""

from typing import Any

from torch import Tensor

from ssl_prune._lightning import pl
from ssl_prune.callbacks._distill import Distillation
from ssl_prune.callbacks._network import network_of
from ssl_prune.callbacks._resumes import Resumes
from ssl_prune.callbacks._run_context import RunContext, StrengthFinder, run_length
from ssl_prune.shrinking import dense_form
from ssl_prune.timing import Time, TimeLike

__all__ = ["Distill"]


class Distill(Resumes):
    r"""Add ``weight · T² · KL(softmax(t / T) ‖ softmax(s / T))`` to the loss: t is what the network was, s what it is.

    Beside a `Budget` the teacher is the network at the start of its window, and the term counts once the size is met.
    Without one, or with a `start`, the teacher is the network at `start`, and the term counts from there on.

    Args:
        weight: of the term.
        temperature: T; a higher one tells more of the classes that are not the first.
        start: a time with its unit: "0.5" of the run, "5ep" (epochs) or "1000it" (optimizer steps). None: as the `Budget`
            has it.
        module: name of the submodule whose outputs ``(N, classes)`` are compared; default the one that holds all parameters.

    Raises:
        ValueError: a number out of its range, a time without its unit; before the first step, neither a start nor a
            `Budget`, or a term that would never count.

    Example:
        >>> Distill(weight=0.5, start="5ep").distillation.temperature
        2.0

    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015), section 2.
    """

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 2.0,
        start: TimeLike | None = None,
        module: str | None = None,
    ) -> None:
        super().__init__()
        self.distillation = Distillation(weight, temperature)
        self.start = None if start is None else Time.of(start, "Distill: start")
        self.module = module
        self._restored: dict[str, Any] = {}
        self._first: int | None = None  # the optimizer step of `start`
        self._budget: StrengthFinder | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the network before anything is trained."""
        if stage == "fit":
            RunContext.begin(trainer, pl_module)
            network_of(pl_module, self.module)
            self._restored = {}  # a checkpoint is loaded after this

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find who says when to start; by now every callback has been set up."""
        self._budget = RunContext.of(pl_module).budget if self.start is None else None
        if self.start is None and self._budget is None:
            raise ValueError(
                'Distill: give a start, such as start="0.5", or a Budget beside it, whose window it follows'
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what the network gets and gives; a resumed run has its teacher again."""
        network = network_of(pl_module, self.module)
        run = run_length(trainer)
        self._first = None if self.start is None else self.start.first_step(run, "Distill: start")
        if self._first is not None and run.steps is not None and self._first >= run.steps:
            raise ValueError(f'Distill: start="{self.start}" is the end of the run of {run.steps} steps; start earlier')
        if not trainer.global_step:
            self.distillation.teacher = None  # of an earlier run
        self.distillation.load_state_dict(self._restored, dense_form(network))
        self._restored = {}
        self.distillation.watch(network)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the teacher, if its time is the start of the run; refuse a budget that leaves no step to teach in."""
        if self._first is not None and self.distillation.teacher is None and trainer.global_step >= self._first:
            self._take_teacher(pl_module)
        solver = None if self._budget is None else self._budget.solver
        if solver is not None and solver.last >= trainer.estimated_stepping_batches and not _is_a_trial(trainer):
            raise ValueError(
                f"Distill: weight={self.distillation.weight!r} would be lost: the window of the Budget ends with the run; end "
                "it earlier, or give a start"
            )

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Add the term to the loss, once it is time to."""
        if not self._counts():
            self.distillation.forget()
            return
        term = self.distillation.term()
        if term is not None:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            scale = 1.0 if scaler is None else float(scaler.get_scale())
            loss.add_(term * (scale / trainer.accumulate_grad_batches))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the teacher at the start of the window."""
        solver = None if self._budget is None else self._budget.solver
        if solver is not None and self.distillation.teacher is None and solver.step_count >= solver.first:
            self._take_teacher(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the network."""
        self.distillation.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the network when a run breaks off."""
        self.distillation.stop()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Find the teacher that earlier versions kept with the budget."""
        states = checkpoint.get("callbacks") or {}
        budget = states.get("Budget")
        earlier = budget.get("teacher") if isinstance(budget, dict) else None
        if earlier and self.state_key not in states:
            self._restored = earlier
        else:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """The teacher's tensors."""
        return {"teacher": self.distillation.state_dict() or self._restored}

    def _take_over(self, state: dict[str, Any]) -> None:
        """Keep the teacher until there is a network to make it of."""
        if not isinstance(state["teacher"], dict):
            raise TypeError(f"got a {type(state['teacher']).__name__} for the teacher, expected its tensors by name")
        self._restored, self.distillation.teacher = state["teacher"], None

    def _counts(self) -> bool:
        if self._budget is None:
            return self.distillation.teacher is not None
        return self._budget.solver is not None and self._budget.solver.frozen

    def _take_teacher(self, pl_module: pl.LightningModule) -> None:
        self.distillation.save(dense_form(network_of(pl_module, self.module)))  # of which a resumed run makes it again


def _is_a_trial(trainer: pl.Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
