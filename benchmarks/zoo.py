"""Slimming whole model zoos: exact, wrong, refused or crashed, what was removed, seconds and memory.

    python benchmarks/zoo.py [--collection torchvision timm] [--only REGEX] [--peer] [--llama] [--json zoo.json]

torchvision and timm must be importable; nothing is downloaded. Every classification network of torchvision and one
small network of each family of timm is built with random weights; constants, tiny layer scales and zero heads are
randomised, because a check against a network that outputs its bias proves nothing. Then a random quarter of the
channels of every normalisation layer and of the rows of every linear layer and every convolution with a bias is set to
zero and the network is slimmed at its own input size. The comparison is made here, on fresh inputs of another batch
size, a faint and a strong one. "signal" is how far their outputs are apart, as a share of the output's size; "exact" is
a difference of at most 1e-4 of that size and a hundredth of the signal. A network of which nothing could be removed is
exact too: see "removed". Seconds are processor time.

With --peer, torch-pruning's dependency graph removes from each of its groups the channels whose normalisations, or
without one whose rows, are all zero. With --llama, a decoder of 1.1 billion parameters in bfloat16 has a quarter of its
MLP units cut; its rounding allows no more than 5e-2. Each network has a process of its own, with limits of time and
address space. The JSON file is written after each; --resume skips what it already holds.
"""

import argparse
import copy
import json
import multiprocessing
import re
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Container
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # once, and not in every fork
import torch.export
from _zoo_networks import build, catalogue, normalises, random_inputs, randomise, zero_a_quarter
from torch import Tensor, nn

from ssl_prune import SlimError, slim
from ssl_prune.graph import by_export
from ssl_prune.utils.table import table


def peer(network: nn.Module, example: Any, widths: Container[int]) -> None:
    """Prune, in place, the channels that torch-pruning's groups say are zero, in no layer of an output's width."""
    import torch_pruning as tp

    graph = tp.DependencyGraph().build_dependency(network, example, verbose=False)
    heads = [m for m in network.modules() if getattr(m, "out_features", getattr(m, "out_channels", None)) in widths]
    for group in graph.get_all_groups(ignored_layers=heads):
        writers = [(i.dep.target.module, i) for i in group if graph.is_out_channel_pruning_fn(i.dep.handler)]
        has_norm = any(normalises(m) for m, _ in writers)
        root = group[0].dep
        dead = torch.ones(len(group[0].idxs), dtype=torch.bool)
        for module, item in writers:
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            # Without a bias a normalisation follows, which decides; every other writer must be zero itself.
            follows = isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and bias is None and has_norm
            if isinstance(weight, Tensor) and not follows:
                zero = (weight.detach().flatten(1) if weight.dim() > 1 else weight.detach()[:, None]).eq(0).all(1)
                zero = zero if not isinstance(bias, Tensor) else zero & (bias.detach() == 0)
                # An index that the layer does not have is left to fail where it is pruned.
                pairs = [(r, i) for r, i in zip(item.root_idxs, item.idxs, strict=True) if i < len(zero)]
                roots, own = torch.tensor(pairs, dtype=torch.long).view(-1, 2).unbind(1)
                dead[roots] &= zero[own]
        chosen = graph.get_pruning_group(root.target.module, root.handler, dead.nonzero().flatten().tolist())
        if bool(dead.any()) and graph.check_pruning_group(chosen):
            chosen.prune()


def measure(model: str, tool: str, limit: int) -> dict[str, Any]:
    """Everything about one network; runs in a process of its own."""
    row: dict[str, Any] = {"stage": "build"}

    def out_of_time(*_: object) -> None:
        raise TimeoutError(f"{limit} s")

    signal.signal(signal.SIGPROF, out_of_time)  # processor time: a busy machine changes no outcome
    torch.manual_seed(0)
    try:
        network, shape = build(model)
        network.eval()
        randomise(network, random_inputs(shape, 2, seed=3))
        zero_a_quarter(network)
        x = random_inputs(shape, 1, seed=0)
        weights = list(network.parameters())
        tolerance = 1e-4 if weights[0].dtype == torch.float32 else 5e-2
        before, given = sum(p.numel() for p in weights), checksum(network)
        row |= {"params": before, "weight_bytes": sum(p.nbytes for p in weights), "input": shape}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.setitimer(signal.ITIMER_PROF, limit)
        cut = _ours(network, x, tolerance, row) if tool == "ssl_prune" else _theirs(network, x, row)
        signal.setitimer(signal.ITIMER_PROF, 0)
        row["peak_bytes"] = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
        row["removed"] = 1 - sum(p.numel() for p in cut.parameters()) / before
        row["stage"] = "compare"
        trial = random_inputs(shape, 2, seed=1)
        if trial.is_floating_point():  # noise alone looks the same everywhere to a deep network
            trial = trial * torch.tensor([0.3, 2.0]).view(2, *[1] * len(shape))
        with torch.no_grad():
            expected, got = network(trial).double(), cut.eval()(trial.clone()).double()
        scale = expected.abs().max().item()
        row["error"] = (expected - got).abs().max().item() / scale
        row["signal"] = (expected[0] - expected[1]).abs().max().item() / scale
        if not row["error"] <= tolerance:
            row["outcome"] = "wrong"
        elif given != checksum(network):
            row |= {"outcome": "wrong", "detail": "the given network was changed"}
        else:  # coarser numbers than float32's cannot tell more
            row["outcome"] = "exact" if row["error"] <= 1e-2 * row["signal"] or tolerance > 1e-4 else "no signal"
    except Exception as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        row |= {"outcome": kind_of(error), "detail": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "ssl_prune" in f.filename]
        row["where"] = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames][-3:]
        if row["outcome"] == "crashed" and row["stage"] == "compare":
            row["outcome"] = "wrong"  # what came back does not run
    return row


def _ours(network: nn.Module, x: Tensor, tolerance: float, row: dict[str, Any]) -> nn.Module:
    start, row["stage"] = time.process_time(), "trace"
    graph = by_export(network, x)
    pinned: Counter[str] = Counter()
    for reason, count in graph.pinned:
        pinned[re.sub(r" \([^()]*\)$", "", reason)] += count  # without the layer's name
    row |= {"trace_s": time.process_time() - start, "units": graph.num_units, "pinned": dict(pinned.most_common())}
    start, row["stage"] = time.process_time(), "slim"
    result = slim(network, x, tolerance=tolerance, graph=graph)
    kept: Counter[str] = Counter()
    for entry in result.report.kept:
        kept[entry.reason.partition(": ")[0]] += entry.count
    row |= {"rest_s": time.process_time() - start, "kept": dict(kept.most_common(8)), "proof": result.report.max_error}
    row["larger_cut_failed"] = result.report.refused
    return result.model


def _theirs(network: nn.Module, x: Tensor, row: dict[str, Any]) -> nn.Module:
    start, row["stage"] = time.process_time(), "prune"
    with torch.no_grad():
        outputs = network(x).shape[-1]
    cut = copy.deepcopy(network)
    peer(cut, (x,), {outputs})
    row["rest_s"] = time.process_time() - start
    return cut


def checksum(network: nn.Module) -> list[float]:
    return [t.double().sum().item() for t in network.state_dict().values()]


def kind_of(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, MemoryError) or ("alloc" in str(error) and "memory" in str(error)):
        return "out of memory"
    return "refused" if isinstance(error, SlimError) else "crashed"


def in_a_process(work: Callable[[], dict[str, Any]], patience: float, gigabytes: float) -> dict[str, Any]:
    """A row made in a fork of this process, which must not have computed anything: threads do not survive a fork."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30),) * 2)
        sender.send(work())

    process = context.Process(target=limited)
    process.start()
    sender.close()
    try:
        if receiver.poll(patience):
            row: dict[str, Any] = receiver.recv()
        else:
            row = {"outcome": "timeout", "detail": "it did not even stop when asked to"}
    except EOFError:
        process.join()
        row = {"outcome": "crashed", "detail": f"the process ended with {process.exitcode}"}
    process.kill()
    process.join()
    return row


def _cells(row: dict[str, Any]) -> list[object]:
    def number(key: str, form: str, factor: float = 1) -> str | None:
        return None if row.get(key) is None else format(factor * row[key], form)

    reason = row.get("detail") or ", ".join(f"{n} {r}" for r, n in list(row.get("kept", {}).items())[:1])
    return [
        row["model"], row["family"], row["tool"], row["outcome"], number("removed", ".1%"), number("error", ".1e"),
        number("signal", ".1e"), number("trace_s", ".1f"), number("rest_s", ".1f"), number("peak_bytes", ".2f", 1e-9),
        number("params", ".1f", 1e-6), reason[:90],
    ]  # fmt: skip


HEAD = ["network", "family", "tool", "outcome", "removed", "error", "signal", "trace, s", "rest, s", "GB", "M params", "first reason"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", nargs="*", default=["torchvision", "timm"], choices=["torchvision", "timm"])
    parser.add_argument("--only", default="", help="regular expression that the network's name matches")
    parser.add_argument("--peer", action="store_true", help="run torch-pruning as well")
    parser.add_argument("--llama", action="store_true", help="and the decoder of 1.1 billion parameters")
    parser.add_argument(
        "--limit-s", type=int, default=180, help="processor seconds for tracing and slimming one network"
    )
    parser.add_argument("--limit-gb", type=float, default=12, help="address space of one network's process")
    parser.add_argument("--resume", action="store_true", help="skip what the JSON file holds")
    parser.add_argument("--json", type=Path, default=Path("zoo.json"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.peer:
        import torch_pruning  # noqa: F401

    rows = json.loads(options.json.read_text()) if options.resume and options.json.exists() else []
    known = {(row["model"], row["tool"]) for row in rows}
    for model, family in catalogue(options.collection, options.llama):
        for tool in ("ssl_prune", "torch-pruning") if options.peer and family != "llama" else ("ssl_prune",):
            if re.search(options.only, model) and (model, tool) not in known:
                # It shares the processor and also builds and compares.
                patience = 5 * options.limit_s + 120
                row = in_a_process(partial(measure, model, tool, options.limit_s), patience, options.limit_gb)
                rows.append({"model": model, "family": family, "tool": tool} | row)
                print("  ".join(str(cell) for cell in _cells(rows[-1])), flush=True)
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(HEAD, [_cells(row) for row in rows], title=f"\n{torch.get_num_threads()} threads, batch 1"))
    for tool in dict.fromkeys(row["tool"] for row in rows):
        outcomes = Counter(row["outcome"] for row in rows if row["tool"] == tool)
        smaller = sum(row["outcome"] == "exact" and row["removed"] > 0 for row in rows if row["tool"] == tool)
        counts = ", ".join(f"{n} {what}" for what, n in outcomes.most_common())
        print(f"{tool}: {counts}; {smaller} exact and smaller")


if __name__ == "__main__":
    main()
