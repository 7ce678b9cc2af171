"""The Lightning module that trains a network to classify images."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from torchmetrics import MeanMetric

from ssl_prune._lightning import pl
from ssl_prune.shrinking import follow_checkpoints

__all__ = ["ImageClassifier"]


class ImageClassifier(pl.LightningModule):
    """Cross-entropy on the logits of a network, with its loss and accuracy logged.

    Logged are `train_loss`, `val_loss`, `val_acc`, `test_loss` and `test_acc`. The accuracy is the share of images of
    the whole set that are right, and the label smoothing is used in training only.

    Args:
        network: maps images ``(N, C, H, W)`` to logits ``(N, num_classes)``. If it has an attribute `input_shape`,
            ``(C, H, W)``, `example_input_array` is a batch of two random images of that shape.
        optimizer: builds the optimizer from the parameters; None is SGD with lr 0.1 and Nesterov momentum 0.9.
        lr_scheduler: builds the schedule from the optimizer, stepped after each epoch; a `ReduceLROnPlateau` watches
            `val_loss`. None is a cosine from the optimizer's lr to zero over all steps of the run.
        label_smoothing: share of the target spread evenly over all classes, in [0, 1].

    Raises:
        ValueError: `label_smoothing` is out of its range, or, at the start of a run, the images of the data module do
            not have the shape that the network takes.

    Example:
        >>> from ssl_prune.models import LeNet5
        >>> model = ImageClassifier(LeNet5(), optimizer=lambda params: SGD(params, lr=0.01, momentum=0.9))
        >>> model(model.example_input_array).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing is {label_smoothing}, expected a number from 0 to 1.")
        # Callables in a checkpoint would need unpickling, which a safe load refuses.
        self.save_hyperparameters(ignore=["network", "optimizer", "lr_scheduler"])
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.label_smoothing = label_smoothing
        self.val_acc = MeanMetric()
        self.test_acc = MeanMetric()
        follow_checkpoints(self)
        shape = getattr(network, "input_shape", None)
        if shape is not None:
            # A generator of its own, so that building the module leaves the seeded state as it was.
            self.example_input_array = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))

    def setup(self, stage: str) -> None:
        """Compare the shape of the data with the one that the network takes."""
        wanted = getattr(self.network, "input_shape", None)
        got = getattr(getattr(self.trainer, "datamodule", None), "input_shape", None)
        if wanted is not None and got is not None and tuple(wanted) != tuple(got):
            raise ValueError(
                f"{type(self.network).__name__} takes images of shape {tuple(wanted)}, the data has {tuple(got)}. "
                f"Build the network with in_channels={got[0]} and image_size={got[1]}."
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of the batch."""
        x, y = batch
        loss = F.cross_entropy(self(x), y, label_smoothing=self.label_smoothing)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(y))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log `val_loss` and `val_acc`."""
        self._evaluate(batch, "val", self.val_acc)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log `test_loss` and `test_acc`."""
        self._evaluate(batch, "test", self.test_acc)

    def predict_step(self, batch: Tensor | tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the class of every image, ``(N,)``."""
        x = batch if isinstance(batch, Tensor) else batch[0]
        logits: Tensor = self(x)
        return logits.argmax(1)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule."""
        params = [p for p in self.parameters() if p.requires_grad]
        optimizer = self.optimizer(params) if self.optimizer else SGD(params, lr=0.1, momentum=0.9, nesterov=True)
        if self.lr_scheduler is None:
            schedule: LRScheduler = cosine_to_zero(optimizer, self.trainer.estimated_stepping_batches)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]
        schedule = self.lr_scheduler(optimizer)
        if isinstance(schedule, ReduceLROnPlateau):
            return [optimizer], [{"scheduler": schedule, "monitor": "val_loss"}]
        return [optimizer], [{"scheduler": schedule, "interval": "epoch"}]

    def _evaluate(self, batch: tuple[Tensor, Tensor], prefix: str, accuracy: MeanMetric) -> None:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        accuracy.update((logits.argmax(1) == y).float())
        # sync_dist: the mean over the whole set and not over the share of one process.
        self.log(f"{prefix}_loss", loss, prog_bar=True, batch_size=len(y), sync_dist=True)
        self.log(f"{prefix}_acc", accuracy, prog_bar=True)


def cosine_to_zero(optimizer: Optimizer, steps: float) -> LambdaLR:
    """Multiply the lr by `(1 + cos(pi * t / steps)) / 2`, and by zero after the last step.

    Unlike `CosineAnnealingLR` it does not rise again after `steps`, and a run that is resumed with more epochs takes
    the new number and not the one in the checkpoint. With an unlimited number of steps the lr stays.

    Args:
        optimizer: its current lr is the first value.
        steps: optimizer steps of the whole run; `inf` if it has no end.

    Returns:
        The scheduler, to be stepped after each optimizer step.

    Source: Loshchilov and Hutter, SGDR, 2017, equation 5 with one period.
    """

    def factor(step: int) -> float:
        if math.isinf(steps):
            return 1.0
        return (1 + math.cos(math.pi * min(step / max(steps, 1), 1.0))) / 2

    return LambdaLR(optimizer, factor)
