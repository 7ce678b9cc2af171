"""Exports of a finished network, each loaded back and compared: ONNX, `torch.export`, and its bare tensors.

A file is written beside its place, read back, run on the example, on fresh inputs and on another batch size where that is
free, and moved to its place only if the outputs are the network's own.
"""

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssl_prune.errors import SlimError
from ssl_prune.slimming.proof.differences import largest, relative_error
from ssl_prune.slimming.proof.outputs import fresh_inputs
from ssl_prune.utils.copies import copied
from ssl_prune.utils.files import beside, replacing
from ssl_prune.utils.inputs import Inputs, as_call, call, evaluation, in_precision_of, leaves, map_tensors

__all__ = ["EXPORTS", "ending", "export_beside", "export_onnx", "export_pt2", "export_state_dict", "require"]

_Run = Callable[[Inputs], list[Tensor]]


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

        def write(args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> _Run:
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

            return run

        _proven(model, write, example_inputs, tolerance, "ONNX")


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

        def write(args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> _Run:
            program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
            torch.export.save(program, part)
            loaded = torch.export.load(part).module()
            return lambda inputs: leaves(call(loaded, inputs))

        _proven(model, write, example_inputs, tolerance, "torch.export")


def export_state_dict(
    model: nn.Module, example_inputs: Inputs, path: str | os.PathLike[str], tolerance: float = 1e-4
) -> None:
    """Write the network's tensors alone as a safetensors file, load them into an emptied copy and compare.

    For whoever builds the slim network by other means; `save_slim` also writes how to build it. With the plan:
    `plan.apply(DenseNet()).load_state_dict(safetensors.torch.load_file(path))`.

    Args:
        model: the network.
        example_inputs: a tensor, a tuple or a dict.
        path: the file to write, usually ending in .safetensors.
        tolerance: allowed relative difference of the outputs.

    Raises:
        SlimError: its state dict holds something else than tensors, or the file computes something else.

    Example:
        >>> import tempfile
        >>> net, path = nn.Linear(2, 3), tempfile.mkdtemp() + "/net.safetensors"
        >>> export_state_dict(net, torch.randn(1, 2), path)
        >>> sorted(load_file(path))
        ['bias', 'weight']
    """
    state = model.state_dict()
    other = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise SlimError(
            f"state_dict: {other[0]} is a {type(state[other[0]]).__name__}, only tensors can be written. Keep it in an "
            "attribute and not in get_extra_state"
        )
    with replacing(path) as part, evaluation(model):
        # Tied tensors are written under each of their names, as load_state_dict wants them.
        save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}, part)
        loaded = copied(model)
        for tensor in loaded.state_dict().values():
            tensor.zero_()
        loaded.load_state_dict(load_file(part))
        with evaluation(loaded):
            problem = _difference(model, lambda inputs: leaves(call(loaded, inputs)), example_inputs, tolerance, False)
        if problem:
            raise SlimError(f"state_dict: {problem}; nothing was written. {_WAY_OUT}")


_WAY_OUT = "Allow it with a larger tolerance, or write a slim file with save_slim"
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}


def require(name: str) -> None:
    """Look for the packages that an export needs.

    Raises:
        ImportError: one is missing.
    """
    missing = [package for package in _PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f"export to ONNX needs {', '.join(missing)}: pip install 'ssl-prune[onnx]'")


EXPORTS: dict[str, Callable[..., None]] = {"onnx": export_onnx, "pt2": export_pt2, "state_dict": export_state_dict}

_SUFFIXES = {"state_dict": ".state_dict.safetensors"}  # not the slim file's own name


def ending(name: str) -> str:
    """Of the file that an export writes beside a slim file.

    Args:
        name: a key of `EXPORTS`.

    Example:
        >>> ending("pt2")
        '.pt2'
    """
    return _SUFFIXES.get(name, f".{name}")


def export_beside(
    path: str | os.PathLike[str], name: str, model: nn.Module, example_inputs: Inputs, tolerance: float = 1e-4
) -> Path:
    """Write an export beside a slim file: `net.safetensors` gives `net.onnx`, `net.pt2`, `net.state_dict.safetensors`.

    Args:
        path: the slim file.
        name: a key of `EXPORTS`.
        model, example_inputs, tolerance: as in the exports themselves.

    Returns:
        The file that was written.

    Raises:
        ValueError: that is the slim file itself.
        SlimError: the export computes something else.
    """
    _, target = beside(path, [ending(name)], f"export of {name} beside")
    EXPORTS[name](model, in_precision_of(model, example_inputs), target, tolerance)
    return target


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


def _proven(
    model: nn.Module,
    write: Callable[[tuple[Any, ...], dict[str, Any], Any], _Run],
    inputs: Inputs,
    tolerance: float,
    what: str,
) -> None:
    """Write with a free batch axis, else, where that fails or differs, with the example's sizes."""
    (args, kwargs), shapes = _tracing_call(model, inputs)
    if shapes is not None:
        with suppress(Exception):  # exporters raise what they like
            if _difference(model, write(args, kwargs, shapes), inputs, tolerance, True) is None:
                return
    problem = _difference(model, write(*as_call(inputs), None), inputs, tolerance, False)
    if problem:
        raise SlimError(f"{what}: {problem}; nothing was written. {_WAY_OUT}")


def _difference(model: nn.Module, run: _Run, inputs: Inputs, tolerance: float, any_batch: bool) -> str | None:
    """What of the outputs differs, on the example, fresh inputs and, with `any_batch`, three times the batch."""
    trials = [inputs, fresh_inputs(inputs, 0)]
    if any_batch:
        trials.append(fresh_inputs(map_tensors(lambda t: torch.cat([t, t, t]), inputs), 1))
    for trial in trials:
        expected, got = leaves(call(model, map_tensors(torch.clone, trial))), run(trial)
        if [t.shape for t in expected] != [t.shape for t in got]:
            return (
                f"the exported network gives {[tuple(t.shape) for t in got]}, not {[tuple(t.shape) for t in expected]}"
            )
        error = largest(relative_error(e.cpu(), g.cpu()) for e, g in zip(expected, got, strict=True))
        if not error <= tolerance:
            return f"the exported network differs by {error:.2e} of the output's size"
    return None
