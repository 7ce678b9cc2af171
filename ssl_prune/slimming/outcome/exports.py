"""Exports of a finished network, each loaded back and compared: ONNX, `torch.export`, and its bare tensors.

A file is written beside its place, read back, run on the example, on fresh inputs and on another batch size where that is
free, and moved to its place only if the outputs are the network's own.
"""

import importlib.util
import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from ssl_prune.errors import SlimError
from ssl_prune.slimming.outcome.free_axes import grown, tracing_call
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

    Outputs in a dict have its keys as names.

    Args:
        model: the network; exported in evaluation mode.
        example_inputs: a tensor, a tuple or a dict; sizes are free along the axes where the network takes others.
        path: the file to write.
        tolerance: allowed relative difference of the outputs.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        SlimError: the file computes something else.
    """
    require("onnx")
    import onnxruntime

    with replacing(path) as part, evaluation(model), _quietly():
        names = _output_names(model, example_inputs)

        def write(args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> _Run:
            program = torch.onnx.export(
                model,
                args,
                kwargs=kwargs or None,
                dynamo=True,
                dynamic_shapes=shapes,
                verbose=False,
                output_names=names,
            )
            assert program is not None
            program.save(part)
            session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])

            def run(inputs: Inputs) -> list[Tensor]:
                inner = [node.name for node in session.get_inputs()]
                arrays = {name: t.cpu().numpy() for name, t in zip(inner, leaves(as_call(inputs)), strict=True)}
                return [torch.from_numpy(array) for array in session.run(None, arrays)]

            return run

        _proven(model, write, example_inputs, tolerance, "ONNX")


def export_pt2(model: nn.Module, example_inputs: Inputs, path: str | os.PathLike[str], tolerance: float = 1e-4) -> None:
    """Write a `torch.export` program (.pt2), load it back and compare.

    Args:
        model: the network; exported in evaluation mode.
        example_inputs: a tensor, a tuple or a dict; sizes are free along the axes where the network takes others.
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
            problem = _difference(model, lambda inputs: leaves(call(loaded, inputs)), example_inputs, tolerance)
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


def _output_names(model: nn.Module, inputs: Inputs) -> list[str] | None:
    """Of outputs in a dict their keys, joined by dots; None leaves it to the exporter."""
    found = call(model, map_tensors(torch.clone, inputs))
    if not isinstance(found, Mapping):
        return None
    paths = [path for path, leaf in tree_flatten_with_path(found)[0] if isinstance(leaf, Tensor)]
    names = [".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path) for path in paths]
    return names if len(set(names)) == len(names) and not set(names) & _input_names(model) else None


def _input_names(model: nn.Module) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


def _proven(
    model: nn.Module,
    write: Callable[[tuple[Any, ...], dict[str, Any], Any], _Run],
    inputs: Inputs,
    tolerance: float,
    what: str,
) -> None:
    """Write with all axes free that can be, else the batch axis; where that fails or differs, with the example's sizes."""
    for every in (True, False):
        found = tracing_call(model, inputs, every)
        if found is not None:
            (args, kwargs), shapes, axes = found
            with suppress(Exception):  # exporters raise what they like
                if _difference(model, write(args, kwargs, shapes), inputs, tolerance, axes) is None:
                    return
    problem = _difference(model, write(*as_call(inputs), None), inputs, tolerance)
    if problem:
        raise SlimError(f"{what}: {problem}; nothing was written. {_WAY_OUT}")


def _difference(
    model: nn.Module, run: _Run, inputs: Inputs, tolerance: float, free: Sequence[Sequence[int]] = ()
) -> str | None:
    """What of the outputs differs, on the example, fresh inputs, and three times the batch and twice each other free axis."""
    trials = [inputs, fresh_inputs(inputs, 0)]
    if free:
        axes = iter(free)
        trials.append(fresh_inputs(map_tensors(lambda t: grown(t, next(axes)), inputs), 1))
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
