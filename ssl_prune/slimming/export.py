"""Exports of a finished network, each loaded back and compared: ONNX and `torch.export`."""

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.files import replacing
from ssl_prune.inputs import Inputs, as_call, call, evaluation, leaves
from ssl_prune.slimming.verify import fresh_inputs, relative_error

__all__ = ["EXPORTS", "export_onnx", "export_pt2", "require"]


def export_onnx(
    model: nn.Module, example_inputs: Inputs, path: str | os.PathLike[str], tolerance: float = 1e-4
) -> None:
    """Write an ONNX file, run it with onnxruntime on fresh inputs, and compare.

    Args:
        model: the network; exported in evaluation mode.
        example_inputs: a tensor, a tuple or a dict; sizes are fixed except the batch axis where the network allows it.
        path: the file to write.
        tolerance: allowed relative difference of the outputs.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        SlimError: the file computes something else.
    """
    require("onnx")
    import onnxruntime

    with replacing(path) as part, evaluation(model), _quietly():
        (args, kwargs), shapes = _tracing_call(model, example_inputs)
        program = torch.onnx.export(
            model, args, kwargs=kwargs or None, dynamo=True, dynamic_shapes=shapes, verbose=False
        )
        assert program is not None
        program.save(part)
        session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])

        def run(inputs: Inputs) -> list[Tensor]:
            names = [node.name for node in session.get_inputs()]
            arrays = {name: t.cpu().numpy() for name, t in zip(names, leaves(as_call(inputs)), strict=True)}
            return [torch.from_numpy(array) for array in session.run(None, arrays)]

        _compare(model, run, example_inputs, tolerance, "ONNX")


def export_pt2(model: nn.Module, example_inputs: Inputs, path: str | os.PathLike[str], tolerance: float = 1e-4) -> None:
    """Write a `torch.export` program (.pt2), load it back and compare.

    Args:
        model: the network; exported in evaluation mode.
        example_inputs: a tensor, a tuple or a dict; sizes are fixed except the batch axis where the network allows it.
        path: the file to write, ending in .pt2.
        tolerance: allowed relative difference of the outputs.

    Raises:
        ValueError: the file name has another ending.
        SlimError: the file computes something else.
    """
    if Path(path).suffix != ".pt2":
        raise ValueError(f"export_pt2: torch.export wants a file name that ends in .pt2, got {os.fspath(path)!r}")
    with replacing(path) as part, evaluation(model), _quietly():
        (args, kwargs), shapes = _tracing_call(model, example_inputs)
        program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
        torch.export.save(program, part)
        loaded = torch.export.load(part).module()
        _compare(model, lambda inputs: leaves(call(loaded, inputs)), example_inputs, tolerance, "torch.export")


_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}


def require(name: str) -> None:
    """Look for the packages that an export needs.

    Raises:
        ImportError: one is missing.
    """
    missing = [package for package in _PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f"export to ONNX needs {', '.join(missing)}: pip install 'ssl-prune[onnx]'")


EXPORTS: dict[str, Callable[..., None]] = {"onnx": export_onnx, "pt2": export_pt2}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporters' notes about packages that are not needed here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _tracing_call(model: nn.Module, inputs: Inputs) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], Any]:
    """Arguments and dynamic shapes: a free batch axis where the network can be traced with one, else the example."""
    args, kwargs = as_call(inputs)
    if not all(isinstance(a, Tensor) and a.dim() for a in [*args, *kwargs.values()]):
        return (args, kwargs), None
    # Tracing takes a size of 1 for a constant, so the batch is doubled.
    doubled = tuple(torch.cat([a, a]) for a in args), {name: torch.cat([a, a]) for name, a in kwargs.items()}
    free = {0: torch.export.Dim.AUTO}
    shapes: Any = dict.fromkeys(kwargs, free) if kwargs else tuple(free for _ in args)
    try:
        traced = torch.export.export(model, *doubled, dynamic_shapes=shapes, strict=False)
    except Exception:  # sizes that the forward fixes
        return (args, kwargs), None
    names = traced.graph_signature.user_inputs
    values = [node.meta["val"] for node in traced.graph.nodes if node.op == "placeholder" and node.name in names]
    sizes = [value.shape[0] for value in values]
    if not all(isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None for size in sizes):  # silently fixed
        return (args, kwargs), None
    return doubled, shapes


def _compare(
    model: nn.Module, run: Callable[[Inputs], list[Tensor]], inputs: Inputs, tolerance: float, what: str
) -> None:
    for trial in (inputs, fresh_inputs(inputs, 0)):
        expected = leaves(call(model, trial))
        error = max(relative_error(e.cpu(), g.cpu()) for e, g in zip(expected, run(trial), strict=True))
        if not error <= tolerance:
            raise SlimError(
                f"{what}: the exported network differs by {error:.2e} of the output's size; nothing was written"
            )
