"""The record of a finished run: the cut, its accuracy, its latency; as a table, as JSON, as a picture."""

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ssl_prune.errors import SlimError
from ssl_prune.report.plots import plot_widths
from ssl_prune.slimming.kept import Kept
from ssl_prune.slimming.outcome.changes import BudgetChange, ThresholdChange
from ssl_prune.slimming.outcome.slim_report import LayerChange, SlimReport
from ssl_prune.utils.json_file import write_json
from ssl_prune.utils.table import table

__all__ = ["Evaluation", "RunReport"]


@dataclass(frozen=True)
class Evaluation:
    """Both networks on one set of data.

    Args:
        name: "validation" or "test".
        samples: how many samples.
        difference: largest relative difference of the outputs over all batches.
        accuracy: share of right classes, sparse and slim; None where the data is not a classification.

    Example:
        >>> Evaluation("test", samples=360, difference=1e-7, accuracy=(0.98, 0.98)).name
        'test'
    """

    name: str
    samples: int
    difference: float
    accuracy: tuple[float, float] | None = None


@dataclass(frozen=True)
class RunReport:
    """Everything the end of a run says.

    Args:
        slim: what the cut did.
        evaluations: both networks on real data.
        latency: seconds of one forward pass, dense and slim, median, in turns.
        batch: samples of that pass.
        network: its class.

    Example:
        >>> import torch
        >>> from ssl_prune import slim
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> print(RunReport(slim(net, torch.zeros(1, 4)).report, batch=64, latency=(2e-3, 1e-3)))  # doctest: +ELLIPSIS
        layer ...
        latency of 64 samples, ms    2.000   1.000
    """

    slim: SlimReport
    evaluations: tuple[Evaluation, ...] = ()
    latency: tuple[float, float] | None = None
    batch: int = 1
    network: str = field(default="")

    def __str__(self) -> str:
        rows: list[list[object]] = []
        for e in self.evaluations:
            if e.accuracy is not None:
                rows.append([f"{e.name} accuracy, {e.samples:,} samples", *(f"{a:.2%}" for a in e.accuracy)])
            rows.append([f"largest output difference, {e.name}", None, f"{e.difference:.1e}"])
        if self.latency is not None:
            what = f"latency of {self.batch} sample{'s' if self.batch > 1 else ''}, ms"
            rows.append([what, *(f"{1e3 * s:.3f}" for s in self.latency)])
        text = str(self.slim)
        return text if not rows else text + "\n\n" + table(["", "sparse", "slim"], rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON.

        Args:
            path: the file; its folder must exist.
        """
        data = asdict(self)
        for found in data["evaluations"]:  # JSON has no infinity
            found["difference"] = found["difference"] if math.isfinite(found["difference"]) else None
        write_json(path, data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "RunReport":
        """The report that `save` wrote.

        Args:
            path: the `.json` beside a slim file.

        Raises:
            FileNotFoundError: there is no such file.
            SlimError: the file is not such a report.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: no such report; expected the .json beside a slim file")
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            slim = data["slim"]
            slim["kept"] = tuple(Kept(**k) for k in slim["kept"])
            slim["layers"] = tuple(LayerChange(**{k: _tuple(v) for k, v in x.items()}) for x in slim["layers"])
            if slim.get("threshold") is not None:
                slim["threshold"] = ThresholdChange(**slim["threshold"])
            if slim.get("budget") is not None:
                slim["budget"] = BudgetChange(**slim["budget"])
            report = SlimReport(**{k: _tuple(v) for k, v in slim.items()})
            for found in data["evaluations"]:
                found["difference"] = math.inf if found["difference"] is None else found["difference"]
            evaluations = tuple(Evaluation(**{k: _tuple(v) for k, v in e.items()}) for e in data["evaluations"])
            return cls(report, evaluations, _tuple(data["latency"]), data["batch"], data["network"])
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise SlimError(
                f"{path}: not a run report ({type(error).__name__}: {error}); expected the .json beside a slim file"
            ) from error

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the widths before and after.

        Args:
            path: the picture; its suffix chooses the format.

        Raises:
            ImportError: matplotlib is missing.
        """
        layers = self.slim.layers
        share = self.slim.macs[1] / self.slim.macs[0] if self.slim.macs[0] else None
        plot_widths(
            [layer.name for layer in layers],
            [layer.before[0] for layer in layers],
            [0 if layer.after is None else layer.after[0] for layer in layers],
            path,
            title=self.network or None,
            macs_share=share,
        )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
