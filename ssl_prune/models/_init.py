"""How the networks draw their first weights, and checks they share."""

import math

from torch import nn

__all__ = ["caffe_xavier_init", "check_dropout", "check_width", "he_init"]


def he_init(model: nn.Module) -> None:
    """Draw the weights of every convolution and linear layer from N(0, 2 / fan_in) and set their biases to zero.

    The inputs are counted and not the outputs, because for a depthwise convolution torch counts all channels as outputs
    of each input, which gives weights too small by the square root of the width.

    Source: He et al., Delving Deep into Rectifiers, 2015, equation 10.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def caffe_xavier_init(network: nn.Module) -> None:
    """Draw every weight uniformly with variance 1 / fan-in, as Caffe's "xavier" filler does, and set the biases to 0.

    Source: Caffe, include/caffe/filler.hpp, XavierFiller.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = (3 / module.weight[0].numel()) ** 0.5
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_dropout(dropout: tuple[float, float]) -> tuple[float, float]:
    """Two probabilities below 1, or a `ValueError`."""
    first, second = dropout
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError(f"dropout is {dropout}, expected two probabilities in [0, 1).")
    return first, second


def check_width(width: float) -> float:
    """A factor on the channels above 0, or a `ValueError`."""
    if not 0 < width < math.inf:
        raise ValueError(f"width is {width}, expected a factor above 0; 1 is the published network.")
    return width
