"""Small networks for tests, with fixed weights."""

import copy
from functools import cache, wraps
from itertools import pairwise

import torch
from torch import nn

import tenreo


def built_once(build):
    """Let a function return copies of its first result, and leave the random generator as the first call did."""

    @cache
    def first():
        return build(), torch.get_rng_state()

    @wraps(build)
    def copied():
        model, state = first()
        torch.set_rng_state(state)
        return copy.deepcopy(model)

    return copied


def convolutional():
    """Dense network with all cases of the general rule: first layer, large and small convolutions, norm, Linear."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 64, 1),
        nn.Flatten(), nn.Linear(64, 100), nn.Linear(100, 41),
    ).eval()  # fmt: skip


def strided_and_grouped():
    """Dense network whose convolutions have a stride, padding and groups."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 64, 3, stride=2, padding=1, padding_mode="reflect", groups=2), nn.Conv2d(64, 64, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64),
    ).eval()  # fmt: skip


def two_norms(norm=True):
    """Dense network of two convolutions, with BatchNorms in a trained state or without BatchNorm."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)]
    first, second = (nn.BatchNorm2d(64) if norm else nn.Identity() for _ in range(2))
    model = nn.Sequential(layers[0], first, nn.ReLU(), layers[1], second, nn.ReLU())
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(16, 3, 8, 8))
    return model.eval()


def golden():
    """Dense network; tests/data/{float32,float16,bfloat16,int8,int6}.safetensors contain it in compressed form."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 32, 3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 64),
    ).eval()  # fmt: skip


@built_once
def compressed():
    """Network for images of 12 by 12 pixels, with layers 3 and 6 compressed."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(2.0), include=("3", "6"), refine=1))
    return net


@built_once
def digits_classifier():
    """Compressed network with BatchNorm and dropout, for digits of 32 by 32 pixels."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 64, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(256, 10),
    )  # fmt: skip
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(2.0), include=("3", "8")))
    return net


@built_once
def without_batchnorm():
    """Compressed network without BatchNorm and dropout, so that several processes give the result of one process."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 64, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    tenreo.compress_(net, tenreo.Recipe(4, tenreo.Uniform(2.0), include=("2", "6"), refine=1))
    return net


def random_model(random):
    """Dense network of one to three small layers, whose weights have a random distribution, scale and dtype."""
    torch.manual_seed(random.randrange(2**32))
    widths = [random.choice((1, 2, 7, 16, 40, 64, 100)) for _ in range(random.choice((2, 2, 3, 4)))]
    layers = [nn.Linear(a, b, bias=random.random() < 0.8) for a, b in pairwise(widths)]
    if random.random() < 0.3:
        layers.insert(0, nn.Conv2d(random.choice((1, 3, 8)), widths[0], random.choice((1, 3))))
    model = nn.Sequential(*layers)
    spread, center, scale = random.choice((0.0, 1e-7, 1e-3, 1.0, 1.0)), random.choice((0, 0, 1)), random.choice(SCALES)
    with torch.no_grad():
        for layer in layers:
            weight = layer.weight.double()
            if random.random() < 0.2:
                weight.view(-1)[random.randrange(weight.numel())] *= random.choice((0.0, 1e3, 1e12))
            layer.weight.copy_(scale * (center + spread * weight))
    return model.to(random.choice((torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)))


SCALES = (1.0, 1.0, 1.0, 1e-40, 1e-30, 1e-7, 1e4, 1e30, -1.0)


def random_recipe(random, model):
    """Recipe for all layers of a dense network, with a random rate or target in its neighborhood."""
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    rate = random.choice((
        lambda: tenreo.TargetSize(1500 + int(size * random.uniform(0.05, 1.5))),
        lambda: tenreo.TargetSize(1500 + int(size * random.uniform(0.05, 1.5))),
        lambda: tenreo.TargetParameters(max(1, int(size * random.uniform(0.1, 1)))),
        lambda: tenreo.Uniform(random.choice((1, 1.5, 2, 7, 1e6))), lambda: tenreo.Progressive(random.uniform(0.1, 9)),
    ))()  # fmt: skip
    groups, refine = random.choice((1, 2, 4, 8)), random.choice((0, 2, 12))
    if isinstance(rate, tenreo.TargetSize) and refine and random.random() < 0.7:
        groups = None
    return tenreo.Recipe(
        groups, rate, include=("*",), refine=refine,
        position_bits=random.choice((None, None, 1, 3, 9)), pack=random.choice(("entropy", "plain")),
        precision=random.choice((None, None, "float16", "bfloat16", "int8", "int6")),
        dense_dtype=random.choice(("float32", "float32", "float16", "bfloat16")),
    )  # fmt: skip
