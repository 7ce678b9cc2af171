"""Convolutions with all-zero columns, lowered: against the dense convolution with the zeros inside.

    python benchmarks/columns.py [--rounds 60] [--batches 1 64 256] [--threads 1 2] [--json columns.json]

The convolutions of LeNet-5 with the columns that Wen et al. (2016) were left with in Table 2: 21 and 7 of 25 in the
first, 41 and 14 of 500 in the second. Columns are chosen at random: anywhere, and in the second layer also within the 2
and 1 input channels that the paper reports. "measured" is what `slim(columns="measured")` would take. "gemm" compares
the two matrix products alone, without the lowering that comes before: that is what the paper timed, in Caffe.
Everything of one row is timed in turns.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ssl_prune.slimming import SlimPlan
from ssl_prune.slimming.plan.kernel_forms import kernel_forms
from ssl_prune.slimming.plan.plan import ModulePlan
from ssl_prune.utils.table import table

# layer, input (C, H, W), filters, columns kept, channels they lie in (None: all), speedup in the paper
CASES = (
    ("conv1", (1, 28, 28), 20, 21, None, 2.33),
    ("conv1", (1, 28, 28), 20, 7, None, 5.19),
    ("conv2", (20, 12, 12), 50, 41, None, 6.93),
    ("conv2", (20, 12, 12), 50, 41, 2, 6.93),
    ("conv2", (20, 12, 12), 50, 14, None, 10.82),
    ("conv2", (20, 12, 12), 50, 14, 1, 10.82),
)


def timed(calls: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, list[float]]:
    """Quartiles of the seconds of each call, taken in turns."""
    names, seconds = list(calls), {name: [] for name in calls}  # type: dict[str, list[float]]
    for i in range(rounds + 5):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            calls[name]()
            if device == "cuda":
                torch.cuda.synchronize()
            if i >= 5:
                seconds[name].append(time.perf_counter() - start)
    return {name: quantiles(values, n=4) for name, values in seconds.items()}


def measure(case: tuple[Any, ...], batch: int, rounds: int, device: str) -> dict[str, Any]:
    """One layer in all its forms on one batch."""
    layer, shape, filters, kept, channels, paper = case
    torch.manual_seed(0)
    dense = nn.Conv2d(shape[0], filters, 5)
    used = torch.zeros(shape[0], 5, 5, dtype=torch.bool)
    among = used[torch.randperm(shape[0])[: channels or shape[0]]]
    among.view(-1)[torch.randperm(among.numel())[:kept]] = True
    used[: len(among)] = among  # which channels does not matter, how many does
    with torch.no_grad():
        dense.weight.mul_(used)
    plans = [form.plan for form in kernel_forms(dense, ModulePlan(), used, filters)]
    net = nn.Sequential(dense).to(device)
    x = torch.randn(batch, *shape, device=device)
    forms = [SlimPlan({"0": plan}, {}).apply(net)[0] for plan in plans]
    matrix, bias = dense.weight.detach().flatten(1), dense.bias
    assert bias is not None
    windows = F.unfold(x, 5)
    lowered, chosen = matrix[:, used.flatten()].contiguous(), windows[:, used.flatten()].contiguous()

    def product(left: torch.Tensor, right: torch.Tensor) -> Callable[[], torch.Tensor]:
        return lambda: torch.baddbmm(bias[:, None], left.expand(len(right), -1, -1), right)

    calls: dict[str, Callable[[], Any]] = {"dense": lambda: dense(x)}
    for form in forms:
        with torch.no_grad():
            torch.testing.assert_close(form(x), dense(x), rtol=1e-3, atol=1e-3)
        if type(form) is not nn.Conv2d or form.kernel_size != (5, 5):
            calls[f"{type(form).__name__} {tuple(form.weight.shape)}"] = lambda form=form: form(x)
    calls |= {"dense gemm": product(matrix, windows), "gemm": product(lowered, chosen)}
    with torch.no_grad():
        times = timed(calls, rounds, device)
    best = min((name for name in times if "gemm" not in name), key=lambda name: times[name][1])
    columns = next(name for name in times if name.startswith("ColumnConv2d"))
    ratio = {name: times["dense"][1] / times[name][1] for name in (columns, best)}
    return {
        "layer": layer, "filters": filters, "kept": kept, "of": used.numel(), "channels": channels or shape[0],
        "batch": batch, "threads": torch.get_num_threads(), "device": device,
        "quartiles_us": {name: [1e6 * t for t in values] for name, values in times.items()},
        "columns": ratio[columns], "best": ratio[best], "best_form": best,
        "gemm": times["dense gemm"][1] / times["gemm"][1], "paper": paper,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, default=Path("columns.json"))
    options = parser.parse_args()
    rows = []
    settings = [("cpu", threads) for threads in options.threads]
    if torch.cuda.is_available():
        settings.append(("cuda", torch.get_num_threads()))
    for (device, threads), batch, case in itertools.product(settings, options.batches, CASES):
        torch.set_num_threads(threads)
        rows.append(measure(case, batch, options.rounds, device))
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    cells = [
        [
            f"{r['layer']}, {r['kept']} of {r['of']} in {r['channels']}", r["device"], r["threads"], r["batch"],
            " to ".join(f"{r['quartiles_us']['dense'][i]:.0f}" for i in (0, 2)), f"{r['quartiles_us']['dense'][1]:.0f}",
            f"{r['columns']:.2f}", f"{r['best']:.2f}", r["best_form"], f"{r['gemm']:.2f}", f"{r['paper']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    head = ["columns", "device", "threads", "batch", "dense, µs", "median", "columns, times as fast", "best form", "which",
            "gemm alone", "paper (gemm)"]  # fmt: skip
    print(table(head, cells, title=f"\ntimes as fast as the dense convolution, medians of {options.rounds} turns"))


if __name__ == "__main__":
    main()
