"""Slimming families of networks that nobody here wrote: is the cut exact, what was kept and why, in which time.

    python benchmarks/families.py [--only REGEX] [--peer] [--resume] [--json families.json]

Networks of transformers, diffusers, PyTorch Geometric, MONAI, segmentation_models_pytorch and ultralytics, of small
configurations with random weights; nothing is downloaded, and a package that cannot be imported is named and skipped.
As in `zoo.py`, constants are randomised and a random quarter of the channels of every normalisation layer and of the rows
of every linear layer and every convolution with a bias is set to zero; of experts and of GPT-2's layers, whose parameters
lie otherwise, a quarter of the hidden units; of group normalisations a quarter of the groups; of graph networks the same
units in all layers. `slim` is called as a user calls it. The comparison is made here, on fresh
inputs of another batch size, over every tensor that the network returns, caches included, each relative to its largest
value. "exact" is a difference of at most 1e-4, and a hundredth of what two inputs differ by. Seconds are processor time.

With --peer, torch-pruning's dependency graph removes the zero channels of its groups, as in `zoo.py`. Each network has a
process of its own, with limits of time and address space. The JSON file is written after each; --resume skips what it
already holds.
"""

import argparse
import copy
import gc
import importlib
import json
import re
import signal
import time
import traceback
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch._inductor.compile_fx  # what an export loads, once and not in every fork
import torch.export
from _families_list import catalogue
from _families_networks import Entry, as_example, inputs_of, prepared, varied
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from zoo import checksum, in_a_process, kind_of, peer

from ssl_prune import slim
from ssl_prune.utils.inputs import as_call
from ssl_prune.utils.plain_outputs import plain_outputs
from ssl_prune.utils.table import table

VERDICTS = (
    "exact and smaller",
    "exact and kept",
    "wrong",
    "refused",
    "crashed",
    "timeout",
    "out of memory",
    "no signal",
)
TOLERANCE = 1e-4


class OutOfTime(BaseException):
    """No `Exception`, as which a rule that fails is caught."""


def answer(network: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    """Every tensor that the network returns; inputs without a name are positional."""
    args, named = as_call(as_example(inputs))
    with torch.no_grad():
        output = network(*args, **named)
    return [leaf for leaf in pytree.tree_leaves(plain_outputs(output)) if isinstance(leaf, Tensor)]


def measure(entry: Entry, tool: str, limit: int) -> dict[str, Any]:
    """Everything about one network; runs in a process of its own."""
    row: dict[str, Any] = {"stage": "build"}

    def out_of_time(*_: object) -> None:
        raise OutOfTime

    signal.signal(signal.SIGPROF, out_of_time)  # processor time: a busy machine changes no outcome
    torch.manual_seed(0)
    try:
        network = prepared(entry)
        before, given = sum(p.numel() for p in network.parameters()), checksum(network)
        row |= {"params": before, "stage": "slim"}
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, limit)
        cut = (_ours if tool == "ssl_prune" else _theirs)(network, inputs_of(entry.takes, 2, seed=0), row)
        signal.setitimer(signal.ITIMER_PROF, 0)
        row["seconds"] = time.process_time() - start
        row["left"] = sum(p.numel() for p in cut.parameters()) / before
        row["stage"] = "compare"
        row |= _compared(network, cut.eval(), entry)
        if row["outcome"] == "exact" and given != checksum(network):
            row |= {"outcome": "wrong", "detail": "the given network was changed"}
        if row["outcome"] == "exact":
            row["outcome"] = "exact and smaller" if row["left"] < 1 else "exact and kept"
    except OutOfTime:
        row |= {"outcome": "timeout", "detail": f"more than {limit} s"}
    except Exception as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        row |= {"outcome": kind_of(error), "detail": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "ssl_prune" in f.filename]
        row["where"] = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames][-3:]
        if row["outcome"] == "crashed" and row["stage"] == "compare":
            row["outcome"] = "wrong"  # what came back does not run
    return row


def _ours(network: nn.Module, inputs: dict[str, Any], row: dict[str, Any]) -> nn.Module:
    result = slim(network, as_example(inputs))
    kept: Counter[str] = Counter()
    for entry in result.report.kept:
        kept[entry.reason.partition(": ")[0]] += entry.count
    row |= {"kept": dict(kept.most_common(8)), "proof": result.report.max_error, "tracer": result.report.tracer}
    row |= {"larger_cut_failed": result.report.refused, "because": result.report.because}
    row["macs_left"] = result.report.macs[1] / max(result.report.macs[0], 1)
    return result.model


def _theirs(network: nn.Module, inputs: dict[str, Any], row: dict[str, Any]) -> nn.Module:
    cut = copy.deepcopy(network)
    widths = {n for x in answer(network, inputs) if x.dim() > 1 for n in (x.shape[1], x.shape[-1])}
    peer(cut, as_example(inputs), widths)
    return cut


def _compared(network: nn.Module, cut: nn.Module, entry: Entry) -> dict[str, Any]:
    fresh = [varied(inputs_of(entry.takes, 3, seed), entry.takes) for seed in (1, 2)]
    (expected, other), got = (answer(network, x) for x in fresh), answer(cut, copy.deepcopy(fresh[0]))
    if [x.shape for x in expected] != [x.shape for x in got]:
        return {"outcome": "wrong", "detail": "outputs of other shapes"}
    errors, signals = [0.0], [0.0]
    for dense, apart, slimmed in zip(expected, other, got, strict=True):
        scale = dense.double().abs().max().item() if dense.numel() else 0.0
        errors.append((dense.double() - slimmed.double()).abs().max().item() / max(scale, 1e-12) if scale else 0.0)
        if dense.shape == apart.shape and scale and dense.is_floating_point():
            signals.append((dense.double() - apart.double()).abs().max().item() / scale)
    row: dict[str, Any] = {"error": max(errors), "signal": max(signals)}
    if not all(error <= TOLERANCE for error in errors):
        return row | {"outcome": "wrong"}
    return row | {"outcome": "exact" if row["error"] <= 1e-2 * row["signal"] else "no signal"}


def _cells(row: dict[str, Any]) -> list[object]:
    def number(key: str, form: str, factor: float = 1) -> str | None:
        return None if row.get(key) is None else format(factor * row[key], form)

    reason = row.get("detail") or ", ".join(f"{n} {r}" for r, n in list(row.get("kept", {}).items())[:1])
    return [
        row["kind"], row["model"], row["tool"], row["outcome"], number("left", ".1%"), number("error", ".1e"),
        number("signal", ".1e"), number("seconds", ".1f"), number("params", ".0f", 1e-3), reason[:90],
    ]  # fmt: skip


HEAD = ["kind", "network", "tool", "outcome", "left", "error", "signal", "s", "K params", "first reason"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression that package:kind:name matches somewhere")
    parser.add_argument("--peer", action="store_true", help="run torch-pruning as well")
    parser.add_argument("--limit-s", type=int, default=60, help="processor seconds for slimming one network")
    parser.add_argument("--limit-gb", type=float, default=12, help="address space of one network's process")
    parser.add_argument("--resume", action="store_true", help="skip what the JSON file holds")
    parser.add_argument("--json", type=Path, default=Path("families.json"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = json.loads(options.json.read_text()) if options.resume and options.json.exists() else []
    known = {(row["kind"], row["model"], row["tool"]) for row in rows}
    asked = [e for e in catalogue() if re.search(options.only, f"{e.package}:{e.kind}:{e.name}")]
    missing = [name for name in dict.fromkeys(e.package for e in asked) if not _imports(name)]
    if missing:
        print(f"not installed, skipped: {', '.join(missing)}", flush=True)
    gc.freeze()  # a fork that collects copies every page
    for entry in asked:
        for tool in ("ssl_prune", "torch-pruning") if options.peer else ("ssl_prune",):
            if entry.package not in missing and (entry.kind, entry.name, tool) not in known:
                # It shares the processor and also builds and compares.
                work, patience = partial(measure, entry, tool, options.limit_s), 5 * options.limit_s + 120
                row = in_a_process(work, patience, options.limit_gb)
                rows.append({"package": entry.package, "kind": entry.kind, "model": entry.name, "tool": tool} | row)
                print("  ".join(str(cell) for cell in _cells(rows[-1])), flush=True)
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    rows.sort(key=lambda row: (row["kind"], row["model"], row["tool"]))
    print(table(HEAD, [_cells(row) for row in rows], title=f"\n{torch.get_num_threads()} threads, batch 2"))
    for tool in dict.fromkeys(row["tool"] for row in rows):
        outcomes = Counter(row["outcome"] for row in rows if row["tool"] == tool)
        print(f"{tool}: {', '.join(f'{outcomes[what]} {what}' for what in VERDICTS if outcomes[what])}")


def _imports(package: str) -> bool:
    """Imported once, and not in every fork."""
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    if package == "transformers":
        importlib.import_module("transformers.modeling_layers")
        importlib.import_module("transformers").logging.set_verbosity_error()
    return True


if __name__ == "__main__":
    main()
