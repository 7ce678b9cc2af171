"""The command line: LightningCLI's `fit | validate | test | predict`, and `slim | export | report`."""

import importlib
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ssl_prune._lightning import pl
from ssl_prune.callbacks import Slim
from ssl_prune.callbacks._network import network_of
from ssl_prune.callbacks._run_context import RunContext
from ssl_prune.checkpoints import load_weights, refuse_foreign
from ssl_prune.commands import COMMANDS, check_exports, model_class
from ssl_prune.errors import SlimError
from ssl_prune.report.run import RunReport
from ssl_prune.schedules import Schedule
from ssl_prune.slimming import load_slim
from ssl_prune.slimming.outcome.exports import export_beside
from ssl_prune.triggers import Trigger
from ssl_prune.usage_errors import in_one_line, refuse, say_in_one_line, wants_traceback
from ssl_prune.utils.files import refuse_over

if TYPE_CHECKING:
    from lightning_fabric.utilities.exceptions import MisconfigurationException as Misconfiguration
    from pytorch_lightning.cli import LightningCLI
else:
    Misconfiguration = importlib.import_module(f"{pl.__name__}.utilities.exceptions").MisconfigurationException
    try:
        LightningCLI = importlib.import_module(f"{pl.__name__}.cli").LightningCLI
        importlib.import_module("jsonargparse")
    except ImportError as error:
        raise ImportError("the command line needs jsonargparse: pip install 'ssl-prune[cli]'") from error

_SHOWN = 300  # characters of a list of names

__all__ = ["SlimCLI", "SlimTrainer", "main"]


class SlimTrainer(pl.Trainer):
    """Lightning's Trainer with two more things to do: `slim` and `export`."""

    def slim(
        self,
        model: pl.LightningModule,
        ckpt_path: str | None = None,
        path: str = "slim.safetensors",
        exports: Sequence[str] = (),
        exact: bool = True,
        tolerance: float = 1e-4,
        columns: bool | Literal["measured"] = False,
        threshold: float = 0.0,
        round_to: int | Literal["measured"] = 1,
        module: str | None = None,
        datamodule: pl.LightningDataModule | None = None,
    ) -> None:
        """Cut the zeros out of a checkpoint's network, prove the result, save it.

        With --example_shape the model is any torch.nn.Module; see `ssl-prune slim --example_shape 1 --help`.

        Args:
            model: the network as it was trained.
            ckpt_path: checkpoint with its weights.
            path: slim file to write; the report and the picture lie beside it.
            exports: formats to write too: onnx, pt2, state_dict.
            exact: refuse what the proof does not confirm.
            tolerance: allowed relative difference of the outputs.
            columns: turn layers with all-zero columns into dense layers over those that are left, or where measured faster.
            threshold: channels of which all weights are within it are set to zero first.
            round_to: keep dead channels so that widths are multiples of it, or where that is measured faster.
            module: name of the submodule to cut.
            datamodule: data to compare both networks on.
        """
        if ckpt_path is None:
            raise ValueError("slim: no checkpoint; give --ckpt_path FILE")
        callback = Slim(
            Path(path).resolve(), exports, exact=exact, tolerance=tolerance, columns=columns, threshold=threshold,
            round_to=round_to, module=module,
        )  # fmt: skip
        refuse_over(callback.files, ckpt_path)
        callback.refuse_unwritable(self)
        _load_weights(model, ckpt_path, module)
        if datamodule is not None:
            datamodule.prepare_data()
            datamodule.setup("fit")
            self.datamodule = datamodule
            _look_at_data(model, datamodule)
        print(callback.run(self, model))

    def export(
        self,
        model: pl.LightningModule,
        path: str,
        exports: Sequence[str] = ("onnx",),
        module: str | None = None,
        datamodule: pl.LightningDataModule | None = None,
    ) -> None:
        """Write a slim file's network in other formats, each loaded back and compared.

        Args:
            model: the dense network the file was made for.
            path: slim file.
            exports: formats to write beside it: onnx, pt2, state_dict.
            module: name of the submodule that was cut.
            datamodule: data to take an example from, if the model has no example_input_array.
        """
        check_exports(exports, at_least=1)
        network = network_of(model, module)
        if datamodule is not None and model.example_input_array is None:
            datamodule.prepare_data()
            datamodule.setup("fit")
            _look_at_data(model, datamodule)
        example = RunContext.of(model).example(model, network)
        if example is None:
            raise ValueError(f"export: no example input; set example_input_array on {type(model).__name__}")
        slim = load_slim(path, network)
        for name in exports:
            print(f"{export_beside(path, name, slim, example)}: written, loaded back and compared")


class SlimCLI(LightningCLI):
    """LightningCLI over `SlimTrainer`; the classes of this package are known by their short names."""

    def __init__(self, args: Sequence[str] | None = None, *, run: bool = True) -> None:
        for room in ("models", "models.classifier", "data", "callbacks", "schedules", "triggers", "scores", "groups"):
            importlib.import_module(f"ssl_prune.{room}")  # short class names work for what is imported
        _take_subclasses_of(Schedule, Trigger)
        super().__init__(
            run=run,
            trainer_class=SlimTrainer,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "description": "Train to zero, cut, prove, save. `ssl-prune report FILE` shows a finished run. With the environment "
                "variable SSL_PRUNE_TRACEBACK=1 an error shows where it came from."
            },
            args=None if args is None else list(args),
        )

    def init_parser(self, **kwargs: Any) -> Any:
        """Lightning's, which says in one line what is wrong: --help lists the hundred options."""
        parser = super().init_parser(**kwargs)
        if hasattr(self, "parser"):  # the parser of a subcommand, whose name comes from that of the first one
            parser.usage = "%(prog)s [options]"
        return say_in_one_line(parser, ["report"])

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Lightning's; then a checkpoint that nothing can be read from is refused before Lightning opens it."""
        super().parse_arguments(parser, args)
        command = self.config.get("subcommand")
        config = self.config[command] if command else self.config
        if config.get("trainer.check_val_every_n_epoch") == 0:
            raise ValueError("trainer.check_val_every_n_epoch: got 0, expected a whole number of epochs >= 1 or null")
        given = config.get("ckpt_path")
        # A sharded checkpoint is a folder.
        if given and Path(given).exists() and not Path(given).is_dir() and config.get("weights_only") is not False:
            refuse_foreign(given, lightning=command not in ("slim", "export"))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's own, and ours."""
        return {**LightningCLI.subcommands(), "slim": {"model", "datamodule"}, "export": {"model", "datamodule"}}


def _take_subclasses_of(*bases: type) -> None:
    """Let `class_path` name a subclass of a dataclass, which jsonargparse does not take by itself."""
    import jsonargparse

    jsonargparse.set_parsing_settings(subclasses_enabled=list(bases))


def report(arguments: Sequence[str]) -> None:
    """Show the report of a finished run: `ssl-prune report FILE [--plot PICTURE]`."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="ssl-prune report", description="Show the report of a finished run.")
    say_in_one_line(parser)
    parser.add_argument("file", type=str, help="the .json beside a slim file, or the slim file itself")
    parser.add_argument("--plot", type=str, default=None, help="picture of the widths to draw (.png, .svg, .pdf)")
    options = parser.parse_args(list(arguments))
    if not Path(options.file).name:
        raise ValueError(f"file: got {options.file!r}, expected the .json beside a slim file, or the slim file itself")
    found = RunReport.load(Path(options.file).with_suffix(".json"))
    print(found)
    if options.plot:
        found.plot(options.plot)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ssl-prune`; errors of use end with one line and exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # The data sets here lie in memory: more loading processes would only slow them down.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
    try:
        if given[:1] == ["report"]:
            report(given[1:])
        elif _is_plain(given):
            COMMANDS[given[0]](given[1:])
        else:
            _run(arguments)
    except (SlimError, ValueError, ImportError, OSError, Misconfiguration) as error:
        if wants_traceback():
            raise
        refuse(f"{in_one_line(str(error))} (SSL_PRUNE_TRACEBACK=1 shows where)")
    except RuntimeError as error:
        said = _of_lightning(error)
        if wants_traceback() or said is None:
            raise
        refuse(said)


def _of_lightning(error: RuntimeError) -> str | None:
    """What Lightning and torch say at length of a wrong input; None of anything else, which is a fault."""
    text = str(error)
    if found := re.match(r"Found more than one stateful callback of type `(\w+)`", text):
        return f"trainer.callbacks: got {found[1]} twice, expected one of a kind with the same arguments; leave one out"
    if found := re.match(r"Error\(s\) in loading state_dict for (\w+)", text):
        problems = " ".join(text.split()[len(found[0].split()) :])
        shown = f"{problems[:_SHOWN]} ..." if len(problems) > _SHOWN else problems
        return f"--ckpt_path: the weights are not those of {found[1]}: {shown}; build it with the arguments of that run"
    return None


def _run(arguments: Sequence[str] | None) -> None:
    """Lightning's command line; what gloo still holds at exit can abort a finished run, so its group ends before."""
    given = torch.distributed.is_available() and torch.distributed.is_initialized()
    SlimCLI(arguments)
    if torch.distributed.is_available() and torch.distributed.is_initialized() and not given:
        torch.distributed.destroy_process_group()


def _look_at_data(model: pl.LightningModule, datamodule: pl.LightningDataModule) -> None:
    if model.example_input_array is None:
        RunContext.of(model).remember(model, next(iter(datamodule.train_dataloader())))


def _load_weights(model: pl.LightningModule, path: str, module: str | None) -> None:
    """Of the whole LightningModule, or, where the file is of another program, of the network in it."""
    try:
        load_weights(model, path)
    except SlimError:
        network = network_of(model, module)
        if network is model:
            raise
        load_weights(network, path)


def _is_plain(arguments: Sequence[str]) -> bool:
    """`slim` or `export` of a network that is no LightningModule."""
    if arguments[:1] not in (["slim"], ["export"]):
        return False
    found = model_class(arguments)
    plain = isinstance(found, type) and issubclass(found, torch.nn.Module) and not issubclass(found, pl.LightningModule)
    return plain or any(word.partition("=")[0] == "--example_shape" for word in arguments)
