"""What the callbacks keep in a checkpoint, and what is said where a checkpoint has nothing of it."""

from abc import abstractmethod
from typing import Any

from ssl_prune._lightning import pl
from ssl_prune.callbacks._run_context import RunContext

__all__ = ["Remembers", "Resumes", "unreadable"]


class Remembers(pl.Callback):
    """A callback that needs an example input: the one of the run is in its checkpoints, and a resumed run has the same."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the example."""
        RunContext.of(pl_module).save(checkpoint)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have the example again."""
        if _fits(trainer):
            RunContext.of(pl_module).restore(checkpoint)


class Resumes(Remembers):
    """A callback with a state of its own, which only a fit takes over: to test a checkpoint changes nothing of a run."""

    _takes = True

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say where a run goes on without the state of this callback."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._takes = _fits(trainer)
        states = checkpoint.get("callbacks") or {}
        state = states.get(self.state_key)
        lacks = not state or (isinstance(state, dict) and all(value is None for value in state.values()))
        if self._takes and lacks:
            name = type(self).__name__
            others = [key for key in states if str(key).startswith(name)]
            pl.utilities.rank_zero_warn(
                f"{name}: the checkpoint holds no state of it (under {self.state_key!r}; of this class it has "
                f"{', '.join(map(repr, others)) or 'none'}), so it begins anew, and the run may end otherwise than one that was "
                "not stopped; give it the arguments it had there"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, unless the checkpoint is only tested.

        Raises:
            ValueError: it is of another form.
        """
        takes, self._takes = self._takes, True
        if not takes:
            return
        try:
            self._take_over(state_dict)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise unreadable(self, error) from error

    @abstractmethod
    def _take_over(self, state: dict[str, Any]) -> None:
        """What `state_dict` returned."""


def unreadable(callback: object, error: Exception) -> ValueError:
    """The error for a state of another form than a callback's own."""
    said = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
    return ValueError(
        f"{type(callback).__name__}: its state in the checkpoint cannot be taken over ({said}); expected what its state_dict() "
        "returned. Take another checkpoint of the run, or start a new one"
    )


def _fits(trainer: pl.Trainer) -> bool:
    return bool(trainer.state.fn == "fit")
