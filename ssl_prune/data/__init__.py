"""The data sets that the configs name, as Lightning data modules."""

from ssl_prune.data.base import ImageData
from ssl_prune.data.cifar import CIFAR10
from ssl_prune.data.digits import Digits
from ssl_prune.data.mnist import MNIST, FashionMNIST
from ssl_prune.data.tensors import ImageTensors

__all__ = ["CIFAR10", "MNIST", "Digits", "FashionMNIST", "ImageData", "ImageTensors"]
