"""Group and depthwise convolutions."""

import torch
from torch import nn

from patterns.registry import DEATHS, Made, chain, image, kill, pattern, unread


@pattern(
    each={"equal": (0, 1, 4, 7), "unequal": (0, 1, 2, 4), "one-group": (0, 1), "whole-group": (0, 1, 2, 3), "all-but-one": (0, 1, 2, 4, 5, 6)},
    kept=("one-group",),
)  # fmt: skip
def group_convolution_input(*rows: int) -> Made:
    net = chain(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1))
    kill(net[0], rows)
    return net, image()


@pattern(each={"equal": (0, 3), "unequal": (0, 1, 3), "one-group": (0,), "whole-group": (0, 1, 2)}, kept=("one-group",))
def group_convolution_output(*rows: int) -> Made:
    net = chain(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1))
    kill(net[2], rows, 0.3)
    return net, image()


@pattern(each={"equal": (0, 3), "whole-group": (0, 1, 2)})
def group_convolution_unread(*columns: int) -> Made:
    net = chain(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1))
    unread(net[4], columns)
    return net, image()


@pattern(each=("equal", "whole-group", "no-bias", "padded", "twice"), kept=("whole-group", "padded", "twice"))
def group_convolution_reading_constants(how: str) -> Made:
    """Only the rows of its own group read a channel; at the border nothing does, nor where two calls see two constants.

    What a whole group makes of constants may differ by rounding from one position to the next.
    """
    grouped = nn.Conv2d(8, 8, 3, groups=2, bias=how != "no-bias", padding=int(how == "padded"))
    net = chain(nn.Conv2d(3, 8, 1), nn.ReLU(), grouped, nn.ReLU(), nn.Conv2d(8, 2, 1))
    if how == "twice":
        net.insert(3, grouped)
    kill(net[0], (0, 1, 2, 3) if how == "whole-group" else (0, 1, 4, 5), 0.4)
    return net, image()


@pattern()
def four_groups_of_which_two_are_dead() -> Made:
    net = chain(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 2, 1))
    kill(net[0], (2, 3))
    kill(net[2], (2, 3, 6, 7), -0.1)
    return net, image()


@pattern()
def block_of_a_resnext() -> Made:
    net = chain(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    )
    kill(net[1], (0, 5), -0.2)
    kill(net[4], (1, 2, 4, 6), 0.2)
    return net, image()


@pattern(each=(*DEATHS, "own"))
def depthwise(how: str) -> Made:
    net = chain(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    if how == "own":
        kill(net[2], (0, 3), 0.3)
    elif how == "unread":
        unread(net[4], (0, 3))
    else:
        kill(net[0], (0, 3), 0.4 if how == "constant" else 0)
    return net, image()


@pattern(each={"constant": 0.4, "zero": 0.0}, kept=("constant",))
def padded_depthwise(bias: float) -> Made:
    net = chain(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    kill(net[0], (0, 3), bias)
    return net, image()


@pattern()
def inverted_residual() -> Made:
    net = chain(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8),
                nn.ReLU6(), nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4))  # fmt: skip
    kill(net[1], (0, 5), -0.2)
    kill(net[4], (1, 2), 0.2)
    return net, image()


@pattern(each={"pairs": (0, 1, 6, 7), "halves": (0, 6), "input": (1, 3)}, kept=("halves",))
def depthwise_multiplier(*rows: int) -> Made:
    """Each input channel makes two output channels."""
    net = chain(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 4, 1))
    kill(net[0] if rows == (1, 3) else net[2], rows)
    return net, image()


@pattern()
def depthwise_over_the_input() -> Made:
    """The input's channels cannot go: neither can the layer's rows."""
    net = chain(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    kill(net[0], (1,))
    kill(net[2], (0, 6))
    return net, image(4)


@pattern()
def depthwise_and_pointwise_in_one_dimension() -> Made:
    net = chain(nn.Conv1d(3, 8, 1), nn.Conv1d(8, 8, 3, groups=8), nn.SiLU(), nn.Conv1d(8, 4, 1))
    kill(net[0], (0, 3))
    return net, torch.randn(2, 3, 9)


@pattern(
    each={"equal": (0, 1, 4, 7), "whole-group": (0, 1, 2, 3), "unequal": (0, 1, 4), "one-group": (0, 1)},
    kept=("one-group",),
)
def grouped_transposed_convolution(*rows: int) -> Made:
    net = chain(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1))
    kill(net[0], rows)
    return net, image()


@pattern(
    each={"plain": (False, (1,), ()), "bias": (True, (1,), ()), "unread": (True, (), (0, 5)), "whole-group": (True, (), (3, 4, 5)), "unread-unequal": (False, (), (0, 1))},
    kept=("unread-unequal",),
)  # fmt: skip
def rows_of_a_grouped_transposed_convolution(bias: bool, rows: tuple[int, ...], columns: tuple[int, ...]) -> Made:
    """Its weight holds outputs on the second axis, one group's after another's."""
    net = chain(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 3, 2, padding=1, groups=2, bias=bias),
        nn.ReLU(),
        nn.Conv2d(6, 2, 1),
    )
    kill(net[2], rows)  # one of each group
    if bias and rows:
        with torch.no_grad():
            net[2].bias[[1, 4]] = -0.5
    unread(net[4], columns)
    return net, image()


@pattern()
def grouped_transposed_convolution_in_one_dimension() -> Made:
    """Inputs and outputs die, and the layer reads constants that it cannot take in at its borders."""
    net = chain(nn.Conv1d(3, 9, 1), nn.ReLU(), nn.ConvTranspose1d(9, 6, 3, groups=3), nn.SiLU(), nn.Conv1d(6, 2, 1))
    kill(net[0], (0, 4, 8))
    kill(net[0], (1,), 0.4)
    unread(net[4], (0, 3, 4))
    return net, torch.randn(2, 3, 7)


@pattern()
def depthwise_transposed_convolution() -> Made:
    net = chain(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, 2, groups=8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    kill(net[0], (1, 5))
    return net, image()


@pattern()
def large_kernel_block() -> Made:
    """ConvNeXt without its norm: depthwise, then two pointwise layers in channels last."""
    net = chain(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 5, padding=2, groups=6), nn.Conv2d(6, 12, 1), nn.GELU(), nn.Conv2d(12, 6, 1)
    )
    kill(net[0], (1, 5))
    kill(net[2], (0, 3, 4), 0.2)
    return net, image()
