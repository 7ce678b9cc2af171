"""The stated size: shares of the dense network or absolute numbers, of one kind or several at once."""

from collections.abc import Mapping
from dataclasses import dataclass

from ssl_prune.utils.nearest import nearest

__all__ = ["KINDS", "Limits"]

KINDS = ("macs", "params", "latency")
STATED = (*KINDS, "latency_ms")


@dataclass(frozen=True)
class Limits:
    """What the finished network may cost.

    Args:
        macs: multiply-accumulates of one forward pass of the example: a share of the dense network's (at most 1), or a
            whole number.
        params: parameters, in the same way.
        latency: of one forward pass: a share (at most 1).
        latency_ms: the same in milliseconds. With both, both hold.

    Raises:
        ValueError: no limit, or one that is not positive; a latency above 1.

    Example:
        >>> Limits(macs=0.5, params=100_000).shares({"macs": 1_000_000, "params": 400_000})
        {'macs': 0.5, 'params': 0.25}
    """

    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in STATED if getattr(self, name) is not None}
        if not given:
            raise ValueError(
                "Budget: give at least one of macs, params, latency and latency_ms, for example Budget(macs=0.5)"
            )
        for name, value in given.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if name == "latency" and number and 1 < value < float("inf"):
                raise ValueError(
                    f"Budget: latency must be a share of the dense network's in (0, 1], got {value!r}; for milliseconds "
                    f"give latency_ms={value!r}"
                )
            whole = not number or value <= 1 or name not in ("macs", "params") or float(value).is_integer()
            if not number or not whole or not 0 < value < float("inf"):
                raise ValueError(f"Budget: {name} must be {_EXPECTED[name]}, got {value!r}")

    @classmethod
    def of(cls, stated: Mapping[str, float]) -> "Limits":
        """Limits from a mapping.

        Args:
            stated: "macs", "params", "latency" (shares) or "latency_ms" (milliseconds) -> what may be left.

        Raises:
            ValueError: a key that is none of "macs", "params", "latency", "latency_ms", or a number out of its range.

        Example:
            >>> Limits.of({"params": 0.25, "latency_ms": 0.8}).kinds
            ('params', 'latency')
        """
        unknown = [name for name in stated if name not in STATED] if isinstance(stated, Mapping) else [stated]
        if unknown:
            raise ValueError(
                f"budget: got {unknown[0]!r}, expected a mapping with some of {', '.join(STATED)}, for example "
                f'{{"macs": 0.5}}{nearest(unknown[0], STATED)}'
            )
        return cls(**stated)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are limited; a latency in milliseconds is one too."""
        given = {"macs": self.macs, "params": self.params, "latency": self.latency or self.latency_ms}
        return tuple(kind for kind in KINDS if given[kind] is not None)

    def shares(self, dense: Mapping[str, float]) -> dict[str, float]:
        """Each limit as a share of the dense network, the smaller one of two.

        Args:
            dense: what the dense network costs: multiply-accumulates, parameters, seconds.
        """
        found = {}
        for kind in ("macs", "params"):
            if (value := getattr(self, kind)) is not None:
                found[kind] = float(value) / dense[kind] if value > 1 else float(value)
        shares = [] if self.latency is None else [float(self.latency)]
        if self.latency_ms is not None:
            shares.append(1e-3 * self.latency_ms / dense["latency"])
        return {**found, "latency": min(shares)} if shares else found

    def text(self, sizes: Mapping[str, float], limits: Mapping[str, float]) -> str:
        """Sizes in words, each in the unit in which its limit was stated.

        Args:
            sizes: kind -> share of the dense network.
            limits: kind -> the share that is the limit, see `shares`.

        Example:
            >>> limits = Limits(macs=0.5, params=100_000, latency_ms=0.8)
            >>> limits.text({"macs": 0.25, "params": 0.25, "latency": 1.0}, {"macs": 0.5, "params": 0.125, "latency": 0.4})
            '25.00% of the dense macs, 200,000 parameters, 2 ms'
        """
        found = []
        for kind, share in sizes.items():
            of_limit, stated = share / limits[kind], getattr(self, kind)
            if kind == "latency" and self.latency_ms is not None and stated != limits[kind]:
                found.append(f"{self.latency_ms * of_limit:.4g} ms")
            elif stated is not None and stated > 1:
                found.append(f"{round(stated * of_limit):,} {_UNITS[kind]}")
            else:
                found.append(f"{share:.2%} of the dense {kind}")
        return ", ".join(found)


_UNITS = {"macs": "multiply-accumulates", "params": "parameters"}
_EXPECTED = {
    **dict.fromkeys(("macs", "params"), "a share of the dense network in (0, 1] or a whole number above 1"),
    "latency": "a share of the dense network's in (0, 1]",
    "latency_ms": "milliseconds above 0",
}
