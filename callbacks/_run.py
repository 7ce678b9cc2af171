"""How long the run of a trainer is."""

from ssl_prune._lightning import pl
from ssl_prune.timing import RunLength

__all__ = ["run_length"]


def run_length(trainer: pl.Trainer) -> RunLength:
    """Optimizer steps of the run and of an epoch; None for what has no end or no length."""
    steps, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
    return RunLength(
        steps=None if steps == float("inf") else int(steps),
        steps_per_epoch=None if batches == float("inf") else -(-int(batches) // trainer.accumulate_grad_batches),
    )
