"""Exact, kept, wrong, refused or crashed: the list of `patterns`, through `slim` and through torch-pruning.

    python benchmarks/conformance.py [--only NAME ...] [--json conformance.json]

Each pattern is a small network with zeros as training leaves them. `slim` is called as a user calls it. torch-pruning
removes from each of its groups the channels that are zero: once those whose rows of every weight that writes them are
zero, which is what a group lasso leaves ("rows"), and once only those of which nothing at all is left, biases, scales
and shifts included ("all"). Outputs are compared on fresh inputs and other batch sizes.
"""

import argparse
import contextlib
import copy
import io
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from ssl_prune import GraphError, SlimError, slim
from ssl_prune.utils.table import table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))  # the list lives with the tests
from patterns import PATTERNS, Pattern
from patterns.compare import difference, parameters, tolerance

VERDICTS = ("exact & smaller", "exact, kept", "WRONG", "refused", "crashed")
WRITERS = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding, nn.LSTM, nn.MultiheadAttention)
Remove = Callable[[nn.Module, Any], tuple[nn.Module, str]]


def by_slim(model: nn.Module, inputs: Any) -> tuple[nn.Module, str]:
    """The slim network, and what the report says of zeros that stay."""
    result = slim(model, inputs)
    reasons = [f"{kept.layer}: {kept.reason}" for kept in result.report.kept]
    return result.model, "; ".join(filter(None, [*reasons, result.report.refused]))


def by_torch_pruning(rest: bool) -> Remove:
    """Removes the zero channels of every group; with `rest`, only where biases, scales and shifts are zero too."""

    def remove(model: nn.Module, inputs: Any) -> tuple[nn.Module, str]:
        model = copy.deepcopy(model).requires_grad_(True).eval()  # what is frozen vanishes from its graph
        example = (inputs,) if isinstance(inputs, Tensor) else inputs
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=example, verbose=False)
        for group in graph.get_all_groups(root_module_types=WRITERS):
            zero = zero_channels(graph, group, rest)
            while zero:
                root = group[0].dep
                chosen = graph.get_pruning_group(root.target.module, root.handler, zero)
                if graph.check_pruning_group(chosen):  # it never asks by itself whether a layer would be empty
                    chosen.prune()
                    break
                zero = zero[1:]
        return model, ""

    return remove


def zero_channels(graph: tp.DependencyGraph, group: tp.Group, rest: bool) -> list[int]:
    """Channels of a group's root at which every layer that writes them is zero."""
    zero = torch.ones(len(group[0].idxs), dtype=torch.bool)
    written = torch.zeros_like(zero)
    for item in group.items:
        if graph.is_out_channel_pruning_fn(item.dep.handler):
            for rows in _rows(graph, item.dep.target.module, rest):
                if max(item.idxs) < len(rows):
                    zero[item.root_idxs] &= rows[item.idxs]
                    written[item.root_idxs] = True
    return (zero & written).nonzero().flatten().tolist()


def _rows(graph: tp.DependencyGraph, module: nn.Module, rest: bool) -> Iterator[Tensor]:
    """For each tensor of a layer that has something to say, (C,) which of its output channels are zero."""
    if isinstance(module, nn.Parameter):
        axis = {id(p): dim for p, dim in graph.unwrapped_parameters}.get(id(module), -1)
        if rest or module.dim() > 1:
            yield _zero(module, axis)
        return
    for name, tensor in module.named_parameters():
        depthwise = isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.out_channels > 1
        if not isinstance(module, WRITERS) or depthwise or tensor.dim() == 1:
            if not rest:
                continue
            yield _zero(tensor, 0)
        elif isinstance(module, nn.LSTM):
            yield _zero(tensor, 0).view(4, -1).all(0)
        elif name == "in_proj_weight":
            yield _zero(tensor, 0).view(3, -1).all(0)
        else:
            yield _zero(tensor, 1 if isinstance(module, nn.Embedding) or getattr(module, "transposed", False) else 0)


def _zero(tensor: Tensor, axis: int) -> Tensor:
    return (tensor.detach().movedim(axis, 0).reshape(tensor.shape[axis], -1) == 0).all(1)


def judge(pattern: Pattern, remove: Remove) -> dict[str, Any]:
    """What became of one pattern."""
    model, inputs = pattern.build()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            cut, note = remove(model, inputs)
    except (GraphError, SlimError) as error:
        return {"verdict": "refused", "removed": 0.0, "note": f"{type(error).__name__}: {error}"}
    except Exception as error:
        return {"verdict": "crashed", "removed": 0.0, "note": f"{type(error).__name__}: {error}"[:300]}
    removed = 1 - parameters(cut) / max(parameters(model), 1)
    try:
        gap = difference(model, cut, inputs)
    except Exception as error:
        return {
            "verdict": "crashed",
            "removed": removed,
            "note": f"the cut network: {type(error).__name__}: {error}"[:300],
        }
    if not gap <= tolerance(pattern.dtype):
        return {"verdict": "WRONG", "removed": removed, "note": f"outputs differ by {gap:.1e} of their size"}
    return {"verdict": VERDICTS[0] if removed > 0 else VERDICTS[1], "removed": removed, "note": note}


def cell(result: dict[str, Any]) -> str:
    return result["verdict"] + (f" −{result['removed']:.0%}" if result["removed"] > 0 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="patterns whose name has one of these in it")
    parser.add_argument("--json", type=Path, default=Path("conformance.json"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ways: dict[str, Remove] = {
        "slim": by_slim,
        "torch-pruning, rows": by_torch_pruning(rest=False),
        "torch-pruning, all": by_torch_pruning(rest=True),
    }
    rows = []
    for pattern in PATTERNS:
        if options.only and not any(part in pattern.name for part in options.only):
            continue
        rows.append({"pattern": pattern.name, **{way: judge(pattern, remove) for way, remove in ways.items()}})
    print(table(["pattern", *ways], [[row["pattern"], *(cell(row[way]) for way in ways)] for row in rows]))
    counts = {way: Counter(row[way]["verdict"] for row in rows) for way in ways}
    totals = [[verdict, *(counts[way][verdict] for way in ways)] for verdict in VERDICTS]
    print(table(["of all", *ways], totals, title="", total=["patterns", *(len(rows) for _ in ways)]))
    options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
