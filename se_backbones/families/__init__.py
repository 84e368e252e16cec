"""The families of networks. To add one: a module here that calls ``register``, and its line below."""

from se_backbones.families import (  # noqa: F401
    bn_inception,
    cifar,
    inception_resnet,
    mobilenet,
    resnet,
    shufflenet,
    vgg,
)
