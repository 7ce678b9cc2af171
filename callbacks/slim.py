"""Cuts the trained network at the end of a fit, proves it, saves it and reports."""

import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ssl_prune.callbacks._network import example_of, graph_of, network_of
from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.inputs import Inputs, map_tensors
from ssl_prune.latency import compare_latency
from ssl_prune.report.evaluate import evaluate
from ssl_prune.report.run import Evaluation, RunReport
from ssl_prune.slimming import SlimResult, save_slim, slim
from ssl_prune.slimming.export import EXPORTS

__all__ = ["Slim"]


class Slim(pl.Callback):
    """Cut at the end of a fit, prove, save, report.

    Beside `path` lie the report (`.json`), a picture of the widths (`.png`, with matplotlib) and the exports. The
    trained LightningModule stays as it is; the slim network is `result.model`.

    Args:
        path: the slim file, usually ending in .safetensors; its folder is made. Relative paths count from the
            trainer's `default_root_dir`. None: cut and report, save nothing.
        exports: formats to write beside it: "onnx", "pt2".
        exact: refuse what the proof does not confirm; see `slim`.
        tolerance: allowed relative difference of the outputs.
        columns: turn layers with all-zero columns into dense layers over those that are left; see `slim`.
        module: name of the submodule to cut; default the one that holds all parameters.
        latency_batch: samples of the forward pass that is timed; 0: do not time.

    Raises:
        ValueError: an unknown export.

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
        columns: bool = False,
        module: str | None = None,
        latency_batch: int = 64,
    ) -> None:
        super().__init__()
        unknown = [name for name in exports if name not in EXPORTS]
        if unknown or isinstance(exports, str):
            raise ValueError(f"Slim: exports={exports!r}, expected a list out of {sorted(EXPORTS)}")
        if not tolerance >= 0:
            raise ValueError(f"Slim: tolerance must be a number >= 0, got {tolerance!r}")
        self.path, self.exports = path, tuple(exports)
        self.exact, self.tolerance, self.columns = exact, tolerance, columns
        self.module, self.latency_batch = module, latency_batch
        self.result: SlimResult | None = None
        self.report: RunReport | None = None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cut the network as training left it; one process does it for all."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.run(trainer, pl_module)
            trainer.print(f"\n{self.report}")

    def run(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> RunReport:
        """Cut, save and report now.

        Raises:
            ValueError: no example input.
            SlimError: the network's outputs are not finite, or an export differs.
        """
        network = network_of(pl_module, self.module)
        example = example_of(trainer, pl_module, network)
        if example is None:
            raise ValueError(f"Slim: no example input; set example_input_array on {type(pl_module).__name__}")
        self.result = slim(
            network, example, self.exact, self.tolerance, columns=self.columns, graph=graph_of(network, example)
        )
        evaluations = [
            evaluate(name, network, self.result.model, loader)
            for name, loader in _loaders(trainer)
            if loader is not None
        ]
        self.report = self._report(network, example, [e for e in evaluations if e is not None])
        if self.path is not None:
            self._save(Path(trainer.default_root_dir) / self.path, example)
        return self.report

    def _report(self, network: nn.Module, example: Inputs, evaluations: Sequence[Evaluation]) -> RunReport:
        assert self.result is not None
        times = None
        if self.latency_batch:
            batch = map_tensors(
                lambda t: t.repeat_interleave(self.latency_batch, 0) if t.dim() and len(t) == 1 else t, example
            )
            times = compare_latency(network, self.result.model, batch)
        return RunReport(self.result.report, tuple(evaluations), times, self.latency_batch or 1, type(network).__name__)

    def _save(self, path: Path, example: Inputs) -> None:
        assert self.result is not None
        assert self.report is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        save_slim(path, self.result)
        self.report.save(path.with_suffix(".json"))
        if importlib.util.find_spec("matplotlib") is not None:
            self.report.plot(path.with_suffix(".png"))
        for name in self.exports:
            EXPORTS[name](self.result.model, example, path.with_suffix(f".{name}"), self.tolerance)


def _loaders(trainer: pl.Trainer) -> Iterable[tuple[str, Any]]:
    """Validation and test batches, where the run has them."""
    yield "validation", _single(trainer.val_dataloaders)
    data = getattr(trainer, "datamodule", None)
    if data is not None and _overrides(data, "test_dataloader"):
        data.setup("test")
        yield "test", _single(data.test_dataloader())


def _overrides(data: Any, name: str) -> bool:
    return getattr(type(data), name) is not getattr(pl.LightningDataModule, name)


def _single(loaders: Any) -> Any:
    if isinstance(loaders, (list, tuple)):
        return loaders[0] if len(loaders) == 1 else None
    return loaders
