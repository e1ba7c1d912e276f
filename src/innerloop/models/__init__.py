"""Backbones. Ordinary torch modules with a `body` and a `head`; they know nothing of tasks."""

from .contextual import Contextual
from .conv import Conv4, mini_imagenet_conv4
from .mlp import fully_connected, mlp
from .network import Network

__all__ = ["Contextual", "Conv4", "Network", "fully_connected", "mini_imagenet_conv4", "mlp"]
