"""Backbones. Ordinary torch modules with a `body` and a `head`; they know nothing of tasks."""

from .bias_transform import bias_transformed
from .contextual import Contextual, FiLM
from .conv import Conv4, mini_imagenet_conv4
from .dropblock import DropBlock, RampedDropBlock
from .mlp import fully_connected, mlp
from .network import Network
from .r2d2 import r2d2_net
from .resnet import resnet12
from .sharing import headless
from .transformer import transformer
from .wide_resnet import wide_resnet

__all__ = [
    "Contextual",
    "Conv4",
    "DropBlock",
    "FiLM",
    "Network",
    "RampedDropBlock",
    "bias_transformed",
    "fully_connected",
    "headless",
    "mini_imagenet_conv4",
    "mlp",
    "r2d2_net",
    "resnet12",
    "transformer",
    "wide_resnet",
]
