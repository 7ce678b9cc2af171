"""Two networks on the same data: accuracy where it is a classification, and how far apart their outputs are."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from ssl_prune.inputs import evaluation
from ssl_prune.report.run import Evaluation
from ssl_prune.slimming.verify import relative_error

__all__ = ["evaluate"]


def evaluate(name: str, sparse: nn.Module, slim: nn.Module, batches: Iterable[Any]) -> Evaluation | None:
    """Run both networks over `batches`.

    Args:
        name: "validation" or "test", for the report.
        sparse: the network before the cut.
        slim: the network after it.
        batches: tuples whose first item is the network's input; where the second holds class numbers, one per row of
            the output, the accuracy is computed.

    Returns:
        What was found; None where no batch is of that form.
    """
    device = next((p.device for p in sparse.parameters()), torch.device("cpu"))
    guesses: tuple[list[Tensor], list[Tensor]] = ([], [])
    labels: list[Tensor] = []
    samples, difference = 0, 0.0
    with evaluation(sparse), evaluation(slim):
        for batch in batches:
            if not (isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor)):
                return None
            x = batch[0].to(device)
            outputs = (sparse(x), slim(x))
            if not all(isinstance(output, Tensor) for output in outputs):
                return None
            samples += len(x)
            difference = max(difference, relative_error(*outputs))
            target = batch[1] if len(batch) > 1 else None
            if isinstance(target, Tensor) and _classes(outputs[0], target):
                labels.append(target.cpu())
                for side, output in zip(guesses, outputs, strict=True):
                    side.append(output.argmax(1).cpu())
    if not samples:
        return None
    accuracy = None
    if labels and sum(map(len, labels)) == samples:
        truth = torch.cat(labels)
        classes = int(max(truth.max(), *(torch.cat(side).max() for side in guesses))) + 1
        sparse_accuracy, slim_accuracy = (
            float(multiclass_accuracy(torch.cat(side), truth, num_classes=max(classes, 2), average="micro"))
            for side in guesses
        )
        accuracy = (sparse_accuracy, slim_accuracy)
    return Evaluation(name, samples, difference, accuracy)


def _classes(output: Tensor, target: Tensor) -> bool:
    return not target.is_floating_point() and target.dim() == 1 and output.dim() == 2 and len(output) == len(target)
