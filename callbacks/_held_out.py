"""Both networks on the data that a run held out, batch by batch as the LightningModule gets it."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from ssl_prune._lightning import pl
from ssl_prune.callbacks._network import handed_on
from ssl_prune.report.evaluate import evaluate
from ssl_prune.report.run import Evaluation
from ssl_prune.utils.inputs import Inputs

__all__ = ["evaluate_on", "held_out"]


def held_out(trainer: pl.Trainer) -> Iterator[tuple[str, Callable[[], Iterable[Any] | None]]]:
    """Validation and test batches, where the run has them; no more of them than the trainer's limits allow."""
    data = getattr(trainer, "datamodule", None)
    if trainer.val_dataloaders is not None or data is None:
        yield "validation", lambda: _limited(trainer.val_dataloaders, trainer.limit_val_batches)
    elif _overrides(data, "val_dataloader"):  # nothing was trained here: a checkpoint is cut
        yield "validation", lambda: _limited(data.val_dataloader(), trainer.limit_val_batches)
    if data is not None and _overrides(data, "test_dataloader"):

        def test() -> Iterable[Any] | None:
            data.setup("test")
            return _limited(data.test_dataloader(), trainer.limit_test_batches)

        yield "test", test


def evaluate_on(
    name: str,
    open_batches: Callable[[], Iterable[Any] | None],
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    network: nn.Module,
    sparse: nn.Module,
    slim: nn.Module,
) -> Evaluation | None:
    """Compare the sparse and the slim form of `network`; data that cannot be read or are of another form are no reason to lose a finished run."""
    try:
        batches = open_batches()
        if batches is None:
            return None
        return evaluate(name, sparse, slim, (_as_seen(batch, trainer, pl_module, network) for batch in batches))
    except Exception as error:
        warnings.warn(f"Slim: the networks were not compared on the {name} data: {error}", stacklevel=2)
        return None


def _as_seen(batch: Any, trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module) -> tuple[Inputs, Any]:
    """The network's input, and the second item of the batch."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.strategy.batch_to_device(pl_module._on_before_batch_transfer(batch))
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    target = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    return handed_on(pl_module, network, first), target


def _limited(loaders: Any, limit: int | float) -> Iterable[Any] | None:
    """The one loader, cut to the trainer's limit; None where there is none, or several."""
    if isinstance(loaders, (list, tuple)):
        loaders = loaders[0] if len(loaders) == 1 else None
    if loaders is None or isinstance(loaders, Mapping) or limit == 0:
        return None
    if isinstance(limit, float):
        limit = int(limit * len(loaders)) if limit < 1 else -1
    found: Iterable[Any] = loaders if limit < 0 else itertools.islice(loaders, limit)
    return found


def _overrides(data: Any, name: str) -> bool:
    return getattr(type(data), name) is not getattr(pl.LightningDataModule, name)
