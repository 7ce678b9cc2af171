"""`ssl-prune slim` and `ssl-prune export` for any network and checkpoint, without a Trainer."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssl_prune.checkpoints import load_weights
from ssl_prune.errors import SlimError
from ssl_prune.latency import compare_latency
from ssl_prune.pipeline import slim
from ssl_prune.report.run import RunReport
from ssl_prune.shrinking import dense_form
from ssl_prune.slimming import load_slim, save_slim
from ssl_prune.slimming.outcome.exports import EXPORTS, ending, export_beside, require
from ssl_prune.usage_errors import in_one_line, say_in_one_line
from ssl_prune.utils.files import begin_anew, beside, refuse_over, refuse_unwritable
from ssl_prune.utils.inputs import Inputs, call, evaluation
from ssl_prune.utils.nearest import nearest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

__all__ = ["COMMANDS", "check_exports", "export_command", "model_class", "slim_command"]

_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32")


def slim_command(arguments: Sequence[str]) -> None:
    """Cut the zeros out of any network's checkpoint: `ssl-prune slim --model CLASS --ckpt_path FILE --example_shape ...`.

    Args:
        arguments: what stands after `ssl-prune slim`.

    Raises:
        ValueError: an argument makes no sense.
        FileNotFoundError: a file or folder does not exist.
        SlimError: the checkpoint is damaged or another network's, or the network cannot be cut.
    """
    parser = _parser("slim", "Cut the zeros out of a checkpoint of any network, prove the result, save it.")
    parser.add_argument(
        "--ckpt_path", type=str, required=True, help="state dict or checkpoint: .pt .pth .ckpt .safetensors"
    )
    parser.add_argument("--prefix", type=str | None, default=None, help="before the names in the file; default: found")
    parser.add_argument(
        "--output", "--path", type=str, default="slim.safetensors", help="slim file; the report lies beside"
    )
    _add_exports(parser, [])
    # The very arguments of `slim`, with their types and help.
    parser.add_function_arguments(slim, skip={"model", "example_inputs", "data", "graph"})
    options = parser.parse_args(list(arguments))
    check_exports(options.exports)
    files = beside(options.output, [".json", ".png", *map(ending, dict.fromkeys(options.exports))], "--output")
    refuse_over(files, options.ckpt_path, "--output")
    for file in files:
        refuse_unwritable(file)
    network, example = _network(parser, options)
    load_weights(network, options.ckpt_path, options.prefix)
    _try(network, example)
    named = ("exact", "tolerance", "columns", "threshold", "round_to", "budget")
    result = slim(network, example, **{name: options[name] for name in named if name in options})
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        print(f"ssl-prune: {path} was there already and is replaced", file=sys.stderr)
    begin_anew(files)
    save_slim(path, result)
    times = compare_latency(dense_form(network), result.model, example)
    samples = next((len(t) for t in example if t.dim()), 1)
    report = RunReport(result.report, (), times, samples, type(network).__name__)
    report.save(path.with_suffix(".json"))
    if importlib.util.find_spec("matplotlib") is not None:
        report.plot(path.with_suffix(".png"))
    print(report)
    _export(path, options.exports, result.model, example, options.tolerance)


def export_command(arguments: Sequence[str]) -> None:
    """Write a slim file's network in other formats: `ssl-prune export --model CLASS --path FILE --example_shape ...`.

    Args:
        arguments: what stands after `ssl-prune export`.

    Raises:
        ValueError: an argument makes no sense.
        FileNotFoundError: a file does not exist.
        SlimError: the file is damaged or another network's, or an export computes something else.
    """
    parser = _parser("export", "Write a network in other formats, each loaded back and compared.")
    parser.add_argument(
        "--path", "--ckpt_path", type=str, required=True, help="slim file, or a checkpoint of the dense network"
    )
    parser.add_argument(
        "--prefix", type=str | None, default=None, help="before the names in a checkpoint; default: found"
    )
    parser.add_argument("--tolerance", type=float, default=1e-4, help="allowed relative difference of the outputs")
    _add_exports(parser, ["onnx"])
    options = parser.parse_args(list(arguments))
    check_exports(options.exports, at_least=1)
    for file in beside(options.path, [*map(ending, dict.fromkeys(options.exports))], "--path")[1:]:
        refuse_unwritable(file)
    network, example = _network(parser, options)
    if _is_slim_file(options.path):
        network = load_slim(options.path, network)
    else:
        load_weights(network, options.path, options.prefix)
    _try(network, example)
    _export(Path(options.path), options.exports, network, example, options.tolerance)


COMMANDS = {"slim": slim_command, "export": export_command}


def model_class(arguments: Sequence[str]) -> Any:
    """What `--model` names among the arguments, if it is a class or function that can be imported; else None."""
    _look_here()
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name in ("--model", "--model.class_path"):
            module, _, leaf = (value or following).rpartition(".")
            try:
                return getattr(importlib.import_module(module), leaf, None) if module else None
            except Exception:  # whatever importing a user's module raises: the parser says it better
                return None
    return None


def _look_here() -> None:
    """Find modules in the current folder, where an installed command does not look by itself."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _parser(command: str, description: str) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    _look_here()
    importlib.import_module("ssl_prune.models")  # short class names work for what is imported
    parser: ArgumentParser = say_in_one_line(ArgumentParser(prog=f"ssl-prune {command}", description=description))
    parser.add_argument("--config", action="config", help="YAML file with these arguments")
    parser.add_subclass_arguments(nn.Module, "model", required=True, help="class path of the dense network")
    parser.add_argument(
        "--example_shape", type=str, required=True,
        help="shape of an example input, batch first, such as 1,3,32,32; of several inputs: 1,3,32,32;1,10",
    )  # fmt: skip
    parser.add_argument(
        "--example_dtype", type=str, default="float32",
        help=f"type of the example, one for all inputs or one each (int64;float32): {', '.join(_DTYPES)}",
    )  # fmt: skip
    return parser


def _add_exports(parser: "ArgumentParser", default: list[str]) -> None:
    text = f"formats to write beside the file: {', '.join(EXPORTS)}"
    parser.add_argument("--exports", type=list[str], default=default, help=text)


def check_exports(names: Sequence[str], at_least: int = 0) -> None:
    """Refuse formats that there are not, or whose packages are missing, before the work.

    Args:
        names: of the formats.
        at_least: how many there must be.

    Raises:
        ValueError: too few, or an unknown one.
        ImportError: the package of one is missing.

    Example:
        >>> check_exports(["pt2"])
    """
    unknown = [name for name in names if name not in EXPORTS]
    if unknown or len(names) < at_least:
        raise ValueError(
            f"exports: got {list(names)}, expected some of {', '.join(sorted(EXPORTS))}"
            f"{nearest(unknown[0], EXPORTS) if unknown else ''}"
        )
    for name in names:
        require(name)


def _network(parser: "ArgumentParser", options: "Namespace") -> tuple[nn.Module, tuple[Tensor, ...]]:
    example = _example(options.example_shape, options.example_dtype)
    torch.manual_seed(0)
    try:
        network = parser.instantiate_classes(options).model
    except Exception as error:  # the user's own constructor
        said = in_one_line(str(error))
        raise SlimError(f"--model {options.model.class_path}: {type(error).__name__}: {said}") from error
    return network.eval(), example


def _example(shapes: str, dtypes: str) -> tuple[Tensor, ...]:
    """Random inputs of the given shapes, normal or, of whole numbers, 0 and 1; the same at every call."""
    given = shapes.strip(" ()[]").split(";")
    kinds = [kind.strip() for kind in dtypes.split(";")]
    kinds = kinds * len(given) if len(kinds) == 1 else kinds
    if len(kinds) != len(given) or any(kind not in _DTYPES for kind in kinds):
        raise ValueError(
            f"--example_dtype {dtypes!r}: expected one type, or one for each of {len(given)} inputs, out of {', '.join(_DTYPES)}"
        )
    generator = torch.Generator().manual_seed(0)
    example = []
    for text, kind in zip(given, kinds, strict=True):
        try:
            shape = [int(size) for size in text.strip(" ()[],").split(",")]
        except ValueError:
            shape = []
        if not shape or any(size < 1 for size in shape):
            raise ValueError(
                f"--example_shape {shapes!r}: expected whole numbers of at least 1 with the batch first, such as 1,3,32,32"
            )
        dtype = getattr(torch, kind)
        example.append(
            torch.randn(shape, generator=generator).to(dtype)
            if dtype.is_floating_point
            else torch.randint(0, 2, shape, generator=generator).to(dtype)
        )
    return tuple(example)


def _try(network: nn.Module, example: Inputs) -> None:
    """One forward pass, so that an example that does not fit is told apart from everything that may follow."""
    with evaluation(network):
        try:
            call(network, example)
        except Exception as error:
            assert isinstance(example, tuple)
            shapes = ";".join(",".join(map(str, t.shape)) for t in example)
            said = (str(error).splitlines() or [""])[0]
            raise SlimError(
                f"--example_shape {shapes}: {type(network).__name__} does not take it: {type(error).__name__}: {said}"
            ) from error


def _export(path: Path, names: Sequence[str], network: nn.Module, example: Inputs, tolerance: float) -> None:
    for name in names:
        print(f"{export_beside(path, name, network, example, tolerance)}: written, loaded back and compared")


def _is_slim_file(path: str) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return "ssl_prune" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return path.endswith(".safetensors")  # a damaged one is refused by its reader
