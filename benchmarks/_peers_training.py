"""What all methods of `peers.py` share: the same batches for the same state, one schedule, and counted training."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from _peers_networks import Shape, macs
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from ssl_prune.data import ImageData, ImageTensors
from ssl_prune.models import ImageClassifier


class Batches:
    """Batches that depend on the state, the epoch and their number alone, whatever else draws random numbers."""

    def __init__(self, images: ImageTensors, size: int, state: int, epoch: Callable[[], int]) -> None:
        self.images, self.size, self.state, self.epoch = images, size, state, epoch

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        seed = (self.state * 10_000 + self.epoch()) * 10_000
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        for number, index in enumerate(order.split(self.size), 1):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + number)  # of the augmentation
                batch = self.images.__getitems__(index)
            yield batch


class Part(ImageClassifier):
    """The classifier in a part of a run: its lr follows that of the whole run from one share of it to another.

    That is a line up to `lr` over the warm-up, a share of the run too, times a cosine down to zero over all of it.
    """

    def __init__(
        self, network: nn.Module, lr: float, weight_decay: float, span: tuple[float, float], warmup: float = 0.0
    ) -> None:
        super().__init__(network)
        self.lr, self.weight_decay, self.span, self.warmup = lr, weight_decay, span, warmup

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=self.lr, momentum=0.9, nesterov=True, weight_decay=self.weight_decay)
        steps, (first, last) = self.trainer.estimated_stepping_batches, self.span

        def factor(step: int) -> float:
            share = first + (last - first) * min(step / steps, 1.0)
            rise = min(1.0, (share + (last - first) / steps) / self.warmup) if self.warmup else 1.0
            return rise * (1 + math.cos(math.pi * share)) / 2

        return [optimizer], [{"scheduler": LambdaLR(optimizer, factor), "interval": "step"}]


class Meter(pl.Callback):
    """Adds up 3 · forward MACs · batch over steps, of the network as it physically is in each step."""

    def __init__(self, shape: Shape) -> None:
        self.total, self._shape = 0, shape
        self._seen: list[torch.Size] = []
        self._macs = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = [p.shape for p in pl_module.parameters()]
        if now != self._seen:
            self._seen, self._macs = now, macs(pl_module.network, self._shape)  # type: ignore[arg-type]
        self.total += 3 * self._macs * len(batch[1])


class Training:
    """Fits networks for one run and keeps count.

    Args:
        data: the data set, set up.
        state: random state of first weights and batches.
        epochs: of the whole run.
        weight_decay: of SGD.
        precision: of Lightning's trainer.
        accelerator: of Lightning's trainer.
        lr: of SGD at the start.
        warmup: share of the run in which it rises to that.
    """

    def __init__(
        self,
        data: ImageData,
        state: int,
        epochs: int,
        weight_decay: float,
        precision: Any,
        accelerator: str = "cpu",
        lr: float = 0.1,
        warmup: float = 0.0,
    ) -> None:
        self.data, self.state, self.epochs = data, state, epochs
        self.lr, self.weight_decay, self.warmup = lr, weight_decay, warmup
        self.precision, self.accelerator = precision, accelerator
        self.shape: Shape = data.input_shape
        self.meter = Meter(self.shape)
        self._done = 0

    def build(self, make: Callable[[], nn.Module]) -> nn.Module:
        """What `make` returns, with the first weights of the random state."""
        torch.manual_seed(self.state)
        return make()

    def fit(self, network: nn.Module, epochs: int | None = None, callbacks: Sequence[pl.Callback] = ()) -> None:
        """Train in place for some epochs of the run, or for all that are left."""
        epochs = self.epochs - self._done if epochs is None else epochs
        first, self._done = self._done, self._done + epochs
        if not epochs:
            return
        assert self.data.train_set is not None
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator=self.accelerator, precision=self.precision, callbacks=[*callbacks, self.meter], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        if self.accelerator == "gpu":  # making batches on one processor takes as long as a step on the accelerator
            self.data.train_set.to("cuda")
        batches = Batches(self.data.train_set, self.data.batch_size, self.state, lambda: first + trainer.current_epoch)
        span = first / self.epochs, self._done / self.epochs
        trainer.fit(Part(network, self.lr, self.weight_decay, span, self.warmup).train(), batches)
        network.cpu()


@torch.no_grad()
def accuracy(network: nn.Module, loader: Any, device: str = "cpu") -> float:
    """Accuracy in per cent, measured on a device; the network is left on the CPU."""
    network.eval().to(device)
    right = total = 0
    for x, y in loader:
        right += int((network(x.to(device)).argmax(1) == y.to(device)).sum())
        total += len(y)
    network.cpu()
    return 100 * right / total
