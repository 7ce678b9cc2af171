"""Cuts the network in the middle of a fit, so that what is zero no longer costs anything."""

import gc
import time
from typing import Any

import torch
from torch import Tensor

from ssl_prune._lightning import pl
from ssl_prune.callbacks._averages import averaging_callbacks
from ssl_prune.callbacks._network import network_of
from ssl_prune.callbacks._resumes import Resumes
from ssl_prune.callbacks._run_context import RunContext
from ssl_prune.callbacks._step import StepCallback
from ssl_prune.errors import SlimError
from ssl_prune.shrinking import Lineage, check_optimizers, follow_checkpoints, training_cut, what_may_go
from ssl_prune.shrinking.rank_agreement import check_agreement
from ssl_prune.sizes.remaining import remaining
from ssl_prune.slimming import SlimPlan
from ssl_prune.utils.checks import check_number, check_whole

__all__ = ["Shrink"]


class Shrink(Resumes):
    """Cut while training: what is at zero leaves the network, the optimizers, and every checkpoint from then on.

    The cut is proven like that of `slim`, and is made in place: parameters and modules stay the objects that they are.
    Optimizer states, gradients, schedulers, hooks, penalties, a `Budget` and the processes of a distributed run follow.
    Only what takes no part in training goes. `Slim` at the end maps the dense network to the last width.

    A checkpoint holds its widths. With this callback a module built dense, or of any width, takes them on when it loads
    one, in `fit(ckpt_path=...)` as in `test(ckpt_path="best")`; for `load_from_checkpoint` see `follow_checkpoints`.

    Args:
        every_n_epochs: look before each n-th epoch.
        every_n_steps: look after each n-th optimizer step instead.
        min_gain: cut only where that saves this share of the present multiply-accumulates or parameters.
        round_to: keep the fewest dead channels with which every width is a multiple of this number, where kernels are
            faster at such widths; give a `Budget` and `Slim` the same.
        tolerance: allowed relative difference of the outputs; see `slim`.
        module: name of the submodule to cut; default the one that holds all parameters.

    Attributes:
        history: of each cut (optimizer step, MACs left, parameters left, seconds), shares of the dense network.

    Raises:
        ValueError: at construction, a number out of its range; in `setup`, a strategy that divides parameters, a
            callback that averages weights, or a penalty on another part of the same network.
        SlimError: during training, an optimizer whose state cannot follow, or processes that disagree.

    Example:
        >>> Shrink(every_n_epochs=2, min_gain=0.1).every_n_epochs
        2
    """

    def __init__(
        self,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        *,
        min_gain: float = 0.05,
        round_to: int = 1,
        tolerance: float = 1e-4,
        module: str | None = None,
    ) -> None:
        super().__init__()
        if every_n_epochs is not None and every_n_steps is not None:
            raise ValueError(
                f"Shrink: give every_n_epochs or every_n_steps, got both ({every_n_epochs} and {every_n_steps})"
            )
        if every_n_steps is None and every_n_epochs is None:
            every_n_epochs = 1
        for name, number in (("every_n_epochs", every_n_epochs), ("every_n_steps", every_n_steps)):
            if number is not None:
                check_whole(number, f"Shrink: {name}", 1)
        check_number(min_gain, "Shrink: min_gain", low=0, below=1, what="a share")
        check_whole(round_to, "Shrink: round_to", 1, "channels")
        check_number(tolerance, "Shrink: tolerance", low=0)
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self.min_gain, self.round_to, self.tolerance, self.module = min_gain, round_to, tolerance, module
        self.history: list[tuple[int, float, float, float]] = []
        self._looked_at: int | None = None  # optimizer step of the last look
        self._in_vain: str | None = None  # what could go at a look that led to no cut
        self._dense: tuple[int, int] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let checkpoints say their widths, and refuse what cannot follow a cut."""
        follow_checkpoints(pl_module)
        if stage != "fit":
            return
        RunContext.begin(trainer, pl_module)
        self._in_vain, self._dense = None, None
        strategy, kinds = trainer.strategy, (pl.strategies.SingleDeviceStrategy, pl.strategies.DDPStrategy)
        if not isinstance(strategy, kinds):
            raise ValueError(
                f"Shrink: {type(strategy).__name__} divides or copies parameters in a way that a cut cannot follow; "
                'train on one device or with strategy="ddp", or without Shrink: Slim at the end needs none'
            )
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in averaging_callbacks(trainer):
            raise ValueError(
                f"Shrink: {type(callback).__name__} keeps a copy of the weights at their first widths, which a cut would not "
                "narrow; leave one of the two out"
            )
        network = network_of(pl_module, self.module)
        own = {id(p) for p in network.parameters()}
        for callback in callbacks:
            if isinstance(callback, StepCallback):
                other = network_of(pl_module, callback.module)
                if other is not network and own & {id(p) for p in other.parameters()}:
                    raise ValueError(
                        f"Shrink: module={self.module!r}, but {type(callback).__name__} looks at module="
                        f"{callback.module!r} of the same network; give both the same module"
                    )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew unless the run goes on; see to it that the optimizers can follow a cut, before there is one."""
        if not trainer.global_step:
            self._looked_at, self.history = None, []
        check_optimizers(network_of(pl_module, self.module), trainer.optimizers)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep an example input, and cut if it is time to."""
        network = network_of(pl_module, self.module)
        RunContext.of(pl_module).remember(pl_module, batch)
        step = int(trainer.global_step)
        if not step or step == self._looked_at:  # in the middle of an accumulation the step is the same
            return
        if step == 1:  # the first state there is
            check_optimizers(network, trainer.optimizers)
        if self.every_n_steps is not None:
            # Several optimizers make several steps at a time.
            due = step // self.every_n_steps > (self._looked_at or 0) // self.every_n_steps
        else:
            assert self.every_n_epochs is not None
            due = batch_idx == 0 and trainer.current_epoch % self.every_n_epochs == 0
        if due:
            self._looked_at = step
            self.run(trainer, pl_module)

    def run(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        """Look now, and cut if there is enough to gain.

        Returns:
            Whether the network was cut.

        Raises:
            ValueError: no example input.
            SlimError: an optimizer's state cannot follow, or processes disagree.
        """
        start = time.perf_counter()
        network = network_of(pl_module, self.module)
        strategy = trainer.strategy
        alone = trainer.world_size == 1
        if not alone:
            check_agreement(network, lambda numbers: _gathered(strategy, numbers))
        # One process decides: running statistics, which a proof looks at, differ between processes.
        found = self._plan(pl_module) if alone else strategy.broadcast(self._plan_or_error(trainer, pl_module))
        if isinstance(found, str):
            raise SlimError(found)
        text, removed = found
        if text is None:
            return False
        lineage = Lineage.of(network)
        origin = lineage.cut(SlimPlan.from_json(text), trainer.optimizers, removed)
        # What was compiled is for the widths of before; the compiler would take the new ones for sizes that change at
        # every call, and give up after some cuts.
        torch.compiler.reset()
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "on_shrink"):
                callback.on_shrink(trainer, pl_module, network, origin)
        if not alone:
            # The reducer knows the parameters of before, and its buckets their sizes.
            strategy.model = strategy.lightning_module
            gc.collect()
            strategy.configure_ddp()  # type: ignore[attr-defined]
            check_agreement(network, lambda numbers: _gathered(strategy, numbers), text)
        self._note(trainer, pl_module, time.perf_counter() - start)
        return True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what is left after a cut."""
        if self.history and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            _, macs, params, _ = self.history[-1]
            pl_module.log_dict({"shrink_macs_left": macs, "shrink_params_left": params})

    def state_dict(self) -> dict[str, Any]:
        """When the last look was, what it found in vain, and the history: numbers and a text."""
        return {
            "looked_at": self._looked_at,
            "history": [list(entry) for entry in self.history],
            "in_vain": self._in_vain,
        }

    def _take_over(self, state: dict[str, Any]) -> None:
        history = [(int(e[0]), float(e[1]), float(e[2]), float(e[3])) for e in state["history"]]
        looked_at, in_vain = state["looked_at"], state.get("in_vain")  # earlier versions did not keep it
        if not isinstance(looked_at, int | None) or not isinstance(in_vain, str | None):
            raise TypeError(f"got looked_at={looked_at!r} and in_vain={in_vain!r}, expected a step and a text")
        self._looked_at, self._in_vain, self.history = looked_at, in_vain, history

    def _plan_or_error(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Any:
        """What the first process finds; an error as its text, since the others wait to hear of it."""
        if not trainer.is_global_zero:
            return None
        try:
            return self._plan(pl_module)
        except (SlimError, ValueError) as error:
            return str(error)

    def _plan(self, pl_module: pl.LightningModule) -> tuple[str | None, dict[str, int]]:
        """The plan as text, None if there is too little to gain; and what it removes."""
        network, context = network_of(pl_module, self.module), RunContext.of(pl_module)
        example = context.needed_example(self, pl_module, network)
        graph = context.graph(network, example)
        left = remaining(graph, network, example)
        if not self._enough(left.macs, left.params):
            return None, {}
        may_go = what_may_go(network, example, self.tolerance, graph, self.round_to)
        if may_go == self._in_vain:
            return None, {}
        place = next(network.parameters()).device
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
            found = training_cut(network, example, self.tolerance, graph, self.round_to)
        if not self._enough(found.report.macs, found.report.params):
            self._in_vain = may_go
            return None, {}
        return found.plan.to_json(), dict(found.report.removed)

    def _enough(self, *sizes: tuple[int, int]) -> bool:
        gains = [1 - after / max(before, 1) for before, after in sizes]
        return max(gains) > 0 and max(gains) >= self.min_gain

    def _note(self, trainer: pl.Trainer, pl_module: pl.LightningModule, seconds: float) -> None:
        network = network_of(pl_module, self.module)
        example = RunContext.of(pl_module).needed_example(self, pl_module, network)
        lineage = Lineage.of(network)
        if self._dense is None:
            before = lineage.cost(example)
            self._dense = before.macs, before.params
        now = lineage.cost_now(example)
        shares = now.macs / max(1, self._dense[0]), now.params / max(1, self._dense[1])
        self.history.append((int(trainer.global_step), *shares, seconds))


def _gathered(strategy: Any, numbers: Tensor) -> Tensor:
    found: Tensor = strategy.all_gather(numbers.to(strategy.root_device))
    return found
