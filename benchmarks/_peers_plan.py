"""Which runs a table of `peers.py` is made of, and in which order they go."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from _peers_methods import CUT_EVERY, EARLY, PRUNERS, Job, cut_after, run_job
from _peers_networks import DATA, NETWORKS, macs, thin_factor

from ssl_prune.budget.due_size import due_share, window_of
from ssl_prune.timing import RunLength
from ssl_prune.utils.files import replacing

FULL = 45_000  # images of the training set, where all of it is asked for, about
SLACK = 0.02  # of the network: what Shrink has not cut yet, having too little to gain

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a run of the benchmark was asked for: `weight_decay` is by method, `windows` by table."""

    network: str
    data: str
    images: int | None
    epochs: int
    weight_decay: Mapping[str, float]
    reg: float
    precision: str
    split: str
    windows: Mapping[str, tuple[float, float]]
    accelerator: str = "cpu"
    batch: int = 128
    lr: float = 0.1
    warmup: float = 0.0
    exponent: float = 1.0

    def job(self, method: str, share: float, state: int, equal: str = "epochs") -> Job:
        """The run of a method, at equal epochs or at equal training MACs ("macs")."""
        epochs = self.epochs if equal == "epochs" else self._longer(method, share)
        window = self.windows[equal] if method in ("ours", *PRUNERS) else None
        window = self.windows["epochs"] if method == "ours-shape" else window
        reg = self.reg if method == "groupnorm" else 0.0
        source = (self.epochs, self.weight_decay["ours"]) if method == "ours-shape" else None
        return Job(
            method, self.network, self.data, self.images, 1.0 if method == "dense" else share, state, epochs,
            self.weight_decay[method], reg, self.precision, self.split, self.accelerator,
            self.batch, self.lr, self.warmup, source, window, self.exponent if "ours" in method else 1.0,
        )  # fmt: skip

    def _longer(self, method: str, share: float) -> int:
        """Epochs that take no more training MACs than `self.epochs` of the dense network."""
        early = self.windows["macs"]
        longest = range(self.epochs, int(self.epochs / share) + 1)
        if method in PRUNERS:
            before = {n: cut_after(n, early) for n in longest}
            return max(n for n in longest if before[n] + (n - before[n]) * share <= self.epochs)
        if method == "thin":
            shape, build = DATA[self.data].input_shape, NETWORKS[self.network]
            factor = thin_factor(build, shape, share)
            return int(self.epochs * macs(build(1.0, shape), shape) / macs(build(factor, shape), shape))
        if method == "ours":
            steps = math.ceil((self.images or FULL) / self.batch)
            return max(n for n in longest if _cost_of_ours(n, steps, share, early) <= self.epochs)
        return int(self.epochs / share) if method == "ours-shape" else self.epochs


def _cost_of_ours(epochs: int, steps: int, share: float, moments: tuple[float, float]) -> float:
    """Training MACs in epochs of the dense network, each of so many steps.

    The network is cut every so often to what is due there, all but for `SLACK`.
    """
    (first, last), total = moments, epochs * steps
    window, run = window_of((str(first), str(last))), RunLength(total)
    every = CUT_EVERY if last <= EARLY else steps
    due = sum(
        min(1.0, due_share(window, run, step, share) * (1 + SLACK)) * min(every, total - step)
        for step in range(0, total, every)
    )
    return due / steps


def source_of(job: Job) -> Job | None:
    """The run of `ours` that a job takes its widths from."""
    if job.widths_from is None:
        return None
    epochs, decay = job.widths_from
    return replace(job, method="ours", epochs=epochs, weight_decay=decay, widths_from=None)


def job_of(row: Row) -> Job:
    """The job that a row is of."""
    values = {f.name: row[f.name] for f in fields(Job) if f.name in row}
    return Job(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


class Rows:
    """The rows that are known, by job: those of the file, which has them all after every run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = json.loads(path.read_text()) if path.exists() else []
        self.by_job: dict[Job, Row] = {job_of(row): row for row in found}

    def add(self, row: Row) -> None:
        self.by_job[job_of(row)] = row
        with replacing(self.path) as part:
            part.write_text(json.dumps(list(self.by_job.values()), indent=1) + "\n")


def with_sources(jobs: Sequence[Job]) -> list[Job]:
    """The jobs without doubles, each after the one whose widths it takes."""
    sources = [source for job in jobs if (source := source_of(job))]
    return list(dict.fromkeys([*sources, *jobs]))


def run_all(jobs: Sequence[Job], rows: Rows, root: str, processes: int, threads: int) -> Iterator[Row | str]:
    """Run what is not known yet; yields each new row, or what went wrong."""
    todo = [job for job in with_sources(jobs) if job not in rows.by_job]
    running: dict[Future[Row], Job] = {}
    with ProcessPoolExecutor(processes, mp_context=torch.multiprocessing.get_context("spawn")) as pool:
        while todo or running:
            for job in [job for job in todo if source_of(job) is None or source_of(job) in rows.by_job]:
                source = source_of(job)
                plan = rows.by_job[source]["plan"] if source else None
                running[pool.submit(run_job, job, root, plan, threads)] = job
                todo.remove(job)
            if not running:  # their sources failed
                yield from (f"left out, without widths: {asdict(job)}" for job in todo)
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(done)
                if (error := done.exception()) is not None:
                    yield f"failed: {asdict(job)}: {type(error).__name__}: {error}"
                    continue
                rows.add(done.result())
                yield done.result()
