"""The stated size: shares of the dense network or absolute numbers, of one kind or several at once."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["KINDS", "Limits"]

KINDS = ("macs", "params", "latency")


@dataclass(frozen=True)
class Limits:
    """What the finished network may cost.

    Args:
        macs: multiply-accumulates of one forward pass of the example: a share of the dense network's (at most 1), or a
            number.
        params: parameters, in the same way.
        latency: time of one forward pass, as a share of the dense network's.
        latency_ms: the same in milliseconds.

    Raises:
        ValueError: no limit, or one that is not positive.

    Example:
        >>> Limits(macs=0.5, params=100_000).shares({"macs": 1_000_000, "params": 400_000})
        {'macs': 0.5, 'params': 0.25}
    """

    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        names = (*KINDS, "latency_ms")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if not given:
            raise ValueError(
                "Budget: give at least one of macs, params, latency and latency_ms, for example Budget(macs=0.5)"
            )
        if self.latency is not None and self.latency_ms is not None:
            raise ValueError(
                f"Budget: got latency={self.latency!r} and latency_ms={self.latency_ms!r}; give one of them"
            )
        for kind, value in given.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 < value < float("inf"):
                raise ValueError(
                    f"Budget: {kind} must be a share of the dense network in (0, 1] or an absolute number above 1, got "
                    f"{value!r}"
                )
        if self.latency is not None and self.latency > 1:
            raise ValueError(
                f"Budget: latency is a share of the dense network in (0, 1], got {self.latency!r}; for milliseconds give latency_ms={self.latency!r}"
            )

    @classmethod
    def of(cls, stated: Mapping[str, float]) -> "Limits":
        """Limits from a mapping.

        Raises:
            ValueError: a key that is none of "macs", "params", "latency", or a number out of its range.

        Example:
            >>> Limits.of({"params": 0.25}).kinds
            ('params',)
        """
        unknown = (
            [kind for kind in stated if kind not in (*KINDS, "latency_ms")] if isinstance(stated, Mapping) else [stated]
        )
        if unknown:
            raise ValueError(
                f"budget: got {unknown[0]!r}, expected a mapping with some of {', '.join(KINDS)}, for example "
                '{"macs": 0.5}'
            )
        return cls(
            macs=stated.get("macs"),
            params=stated.get("params"),
            latency=stated.get("latency"),
            latency_ms=stated.get("latency_ms"),
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are limited."""
        return tuple(
            kind
            for kind in KINDS
            if getattr(self, kind) is not None or (kind == "latency" and self.latency_ms is not None)
        )

    def shares(self, dense: Mapping[str, float]) -> dict[str, float]:
        """Each limit as a share of the dense network.

        Args:
            dense: what the dense network costs: multiply-accumulates, parameters, seconds.
        """
        found = {}
        for kind in self.kinds:
            if kind == "latency" and self.latency_ms is not None:
                value = 1e-3 * self.latency_ms / dense[kind]
            elif (value := float(getattr(self, kind))) > 1:
                value = value / dense[kind]
            found[kind] = value
        return found
