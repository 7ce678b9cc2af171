"""Two networks on the same data: accuracy where it is a classification, and how far apart their outputs are."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssl_prune.report.run import Evaluation
from ssl_prune.slimming.proof.differences import relative_error
from ssl_prune.utils.inputs import call, evaluation, in_precision_of, map_tensors

__all__ = ["evaluate"]


def evaluate(name: str, sparse: nn.Module, slim: nn.Module, batches: Iterable[Any]) -> Evaluation | None:
    """Run both networks over `batches`.

    Args:
        name: "validation" or "test", for the report.
        sparse: the network before the cut.
        slim: the network after it.
        batches: tuples whose first item is the network's input, a tensor, a tuple of positional arguments or a dict of
            keyword arguments; where the second holds class numbers, one per row of the output, the accuracy is
            computed.

    Returns:
        What was found; None where no batch is of that form.
    """
    device = next((p.device for p in sparse.parameters()), torch.device("cpu"))
    guesses: tuple[list[Tensor], list[Tensor]] = ([], [])
    labels: list[Tensor] = []
    samples, difference = 0, 0.0
    with evaluation(sparse), evaluation(slim):
        for batch in batches:
            if not (isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], (Tensor, Mapping, tuple))):
                return None
            x = in_precision_of(sparse, map_tensors(lambda t: t.to(device), batch[0]))
            outputs = (call(sparse, x), call(slim, x))
            if not all(isinstance(output, Tensor) for output in outputs):
                return None
            samples += len(outputs[0])
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
        sparse_accuracy, slim_accuracy = (float((torch.cat(side) == truth).double().mean()) for side in guesses)
        accuracy = (sparse_accuracy, slim_accuracy)
    return Evaluation(name, samples, difference, accuracy)


def _classes(output: Tensor, target: Tensor) -> bool:
    if target.is_floating_point() or target.dim() != 1 or output.dim() != 2 or len(output) != len(target):
        return False
    return output.shape[1] > 1 and int(target.min()) >= 0 and int(target.max()) < output.shape[1]
