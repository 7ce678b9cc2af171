"""Cuts the trained network at the end of a fit, proves it, saves it and reports."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.budget.reached import shares_of, why_more
from ssl_prune.callbacks._held_out import evaluate_on, held_out
from ssl_prune.callbacks._network import network_of
from ssl_prune.callbacks._nothing_goes import say_if_nothing_goes
from ssl_prune.callbacks._options import refuse_lost
from ssl_prune.callbacks._resumes import Remembers
from ssl_prune.callbacks._run_context import RunContext
from ssl_prune.callbacks._targets import Writes
from ssl_prune.callbacks._timed import TimedBatch
from ssl_prune.callbacks._whole import drop_whole, gather_at_end, whole_of
from ssl_prune.groups.shards import has_shards
from ssl_prune.latency import compare_latency, without_zeros
from ssl_prune.oneshot.threshold import check_threshold
from ssl_prune.pipeline import slim
from ssl_prune.report.run import Evaluation, RunReport
from ssl_prune.shrinking import dense_form
from ssl_prune.slimming import SlimResult, save_slim
from ssl_prune.slimming.outcome.exports import EXPORTS, ending, export_beside, require
from ssl_prune.slimming.plan.rounding import check_round_to
from ssl_prune.utils.checks import check_number, check_whole
from ssl_prune.utils.files import begin_anew
from ssl_prune.utils.inputs import Inputs, uncompiled
from ssl_prune.utils.nearest import nearest

__all__ = ["Slim"]


class Slim(Remembers, Writes):
    """Cut at the end of a fit, prove, save, report.

    Beside `path` lie the report (`.json`), a picture of the widths (`.png`, with matplotlib) and the exports. The
    trained LightningModule stays as it is; the slim network is `result.model`. A network with shards is gathered, cut and
    timed on the CPU of the first process.

    Args:
        path: the slim file, usually ending in .safetensors; its folder is made. Relative paths count from the
            trainer's `default_root_dir`. None: cut and report, save nothing.
        exports: formats to write beside it: "onnx", "pt2", "state_dict".
        exact: refuse what the proof does not confirm; see `slim`.
        tolerance: allowed relative difference of the outputs.
        columns: turn layers with all-zero columns into dense layers over those that are left, or "measured": where
            that is faster; see `slim`.
        threshold: set channels of which all weights are within it to zero first, on a copy; see `slim`.
        round_to: keep dead channels so that widths are multiples of it, or "measured"; see `slim`.
        module: name of the submodule to cut; default the one that holds all parameters.
        latency_batch: samples of the forward pass that is timed, the first that training reads; 0: do not time.

    Raises:
        TypeError: `path` is no path.
        ValueError: an unknown export, a number that is out of range, an option that nothing would read, or a path of
            which another of the files would take the place.

    Warns:
        UserWarning: at the start, a file that is there already and will be replaced; at the first batch, that no channel can
            ever be removed, with each layer and the reason.

    Example:
        >>> Slim("net.safetensors", exports=("onnx",)).exports
        ('onnx',)
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        exports: Sequence[str] = (),
        *,
        exact: bool = True,
        tolerance: float = 1e-4,
        columns: bool | Literal["measured"] = False,
        threshold: float = 0.0,
        round_to: int | Literal["measured"] = 1,
        module: str | None = None,
        latency_batch: int = 64,
    ) -> None:
        super().__init__()
        unknown = [name for name in exports if name not in EXPORTS]
        if unknown or isinstance(exports, str):
            near = nearest(exports if isinstance(exports, str) else unknown[0], EXPORTS)
            raise ValueError(f"Slim: exports={exports!r}, expected a list out of {sorted(EXPORTS)}{near}")
        check_number(tolerance, "Slim: tolerance", low=0)
        if columns not in (True, False, "measured"):
            raise ValueError(f'Slim: columns must be true, false or "measured", got {columns!r}')
        check_threshold(threshold)
        check_round_to(round_to)
        check_whole(latency_batch, "Slim: latency_batch", 0, "samples")
        self.exports = tuple(dict.fromkeys(exports))
        if path is None:
            refuse_lost(self, "exports lie beside the slim file", "give a path", exports=(self.exports, ()))
        if not exact and not exports:
            reason = "with exact=False the cut is made whatever its error, and there is no export to compare"
            refuse_lost(self, reason, "leave exact at true", tolerance=(tolerance, 1e-4))
        self.write_to(path, [".json", ".png", *map(ending, self.exports)])
        self.exact, self.tolerance, self.columns = exact, tolerance, columns
        self.threshold, self.round_to = threshold, round_to
        self.module, self.latency_batch = module, latency_batch
        self.result: SlimResult | None = None
        self.report: RunReport | None = None
        self._timed = TimedBatch(latency_batch)
        self._begins = False  # the first batch is still to come

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the network, where its files go and what the exports need before anything is trained."""
        if stage == "fit":
            RunContext.begin(trainer, pl_module)
            network_of(pl_module, self.module)
            self._timed, self._begins = TimedBatch(self.latency_batch), True
            for name in self.exports:
                require(name)
            self.refuse_targets(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what will be replaced, and refuse to time a network with shards elsewhere than where it is cut."""
        self.say_what_is_replaced(trainer)
        network = network_of(pl_module, self.module)
        place = next((p.device.type for p in network.parameters()), "cpu")
        if "measured" in (self.round_to, self.columns) and has_shards(network, pl_module) and place != "cpu":
            raise ValueError(
                f'Slim: round_to or columns is "measured", but of a network with shards the whole is on the CPU, and it '
                f"trains on {place}; give a number, or cut the slim file's network again in one process"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep an example input, and what is timed; say at the first batch where there is nothing to cut."""
        self._timed.take(batch)
        RunContext.of(pl_module).remember(pl_module, batch)
        if self._begins and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            say_if_nothing_goes(self, pl_module, network_of(pl_module, self.module))
        self._begins = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have the whole network in the process that cuts it."""
        gather_at_end(trainer, pl_module, network_of(pl_module, self.module))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cut the network as training left it; one process does it for all."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.run(trainer, pl_module)
            trainer.print(f"\n{self.report}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of what was gathered."""
        if stage == "fit":
            drop_whole(pl_module, network_of(pl_module, self.module))

    def run(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> RunReport:
        """Cut, save and report now.

        Raises:
            ValueError: no example input.
            SlimError: the network's outputs are not finite, or an export differs.
        """
        network, context = network_of(pl_module, self.module), RunContext.of(pl_module)
        whole = whole_of(pl_module, network)
        example = context.needed_example(self, pl_module, network)
        self.refuse_unwritable(trainer)
        # What is measured is measured on the batch that counts; the graph needs one sample only.
        graph = None if "measured" in (self.round_to, self.columns) else context.graph(whole, example)
        batch = self._timed.inputs(pl_module, network, example)
        inputs = batch if graph is None else example
        self.result = slim(
            whole, inputs, self.exact, self.tolerance, columns=self.columns, threshold=self.threshold,
            round_to=self.round_to, graph=graph,
        )  # fmt: skip
        budget = context.budget
        if budget is not None:
            report = self.result.report
            sized = budget.judge(network, shares_of(report), why_more(report), whole)
            self.result = replace(self.result, report=replace(report, budget=sized))
        path = self.target(trainer)
        if path is not None:  # before anything that may go wrong with data
            path.parent.mkdir(parents=True, exist_ok=True)
            begin_anew([path.parent / file.name for file in self.files])
            save_slim(path, self.result)
        sparse = dense_form(whole)  # what Shrink has cut is there again, as zeros
        evaluations = [
            evaluate_on(name, batches, trainer, pl_module, network, sparse, self.result.model)
            for name, batches in held_out(trainer)
        ]
        self.report = self._report(sparse, batch, [e for e in evaluations if e is not None])
        if path is not None:
            self._save(path, example)
        return self.report

    def _report(self, network: nn.Module, batch: Inputs, evaluations: Sequence[Evaluation]) -> RunReport:
        assert self.result is not None
        times = None
        if self.latency_batch:
            with uncompiled():  # the slim network is not compiled either
                times = compare_latency(without_zeros(network), self.result.model, batch)
        return RunReport(self.result.report, tuple(evaluations), times, self.latency_batch or 1, type(network).__name__)

    def _save(self, path: Path, example: Inputs) -> None:
        assert self.result is not None
        assert self.report is not None
        self.report.save(path.with_suffix(".json"))
        if importlib.util.find_spec("matplotlib") is not None:
            self.report.plot(path.with_suffix(".png"))
        for name in self.exports:
            export_beside(path, name, self.result.model, example, self.tolerance)
