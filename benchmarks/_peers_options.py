"""What the benchmarks that train have in common: options, silence, and how a mean is written."""

import argparse
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from statistics import mean, stdev

import torch
from _peers_networks import DATA, NETWORKS


def count(text: str) -> int:
    """An option that is a whole number of at least 1."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}; it takes a whole number of at least 1")
    return number


def within(low: float, high: float = float("inf")) -> Callable[[str], float]:
    """An option that is a number between these two, both included."""

    def number(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not (low <= found <= high and math.isfinite(found)):
            raise argparse.ArgumentTypeError(f"got {text}; it takes a finite number from {low:g} to {high:g}")
        return found

    return number


def parser(doc: str | None, network: str, epochs: int) -> argparse.ArgumentParser:
    """The options that say what is trained, with these defaults."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--root", default="data", help="folder of the data")
    made.add_argument("--data", choices=list(DATA), default="cifar10")
    made.add_argument("--network", choices=list(NETWORKS), default=network)
    made.add_argument("--images", type=count, help="training images; all that are not held back if left out")
    made.add_argument("--epochs", type=count, default=epochs)
    return made


def quiet(threads: int) -> None:
    """So many threads, and nothing of Lightning's but errors."""
    torch.set_num_threads(threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean ± deviation."""
    deviation = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.2f}{deviation}"
