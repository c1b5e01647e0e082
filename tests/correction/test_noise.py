"""Noise to recalibrate on, and how much of it."""

import copy

import pytest
import torch
from torch import nn

import tenreo
from tenreo.correction.noise import NOISE_PIXELS, noise_images
from tenreo.models.builders import build_model


def test_noise_is_normalized_falls_with_frequency_and_follows_its_seed():
    x = noise_images(64, 3, 32, seed=1)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
    power = torch.fft.rfft2(x).abs().square().mean((0, 1))
    assert power[0, 2] > 8 * power[0, 8]  # sixteen times, but for chance
    assert torch.equal(x, noise_images(64, 3, 32, seed=1)) and not torch.equal(x, noise_images(64, 3, 32, seed=2))


@pytest.mark.parametrize(("size", "images"), [(8, 512), (64, 392), (224, 32)])
def test_a_batch_has_so_many_pixels(size, images):
    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    done = tenreo.match_statistics_(copy.deepcopy(dense), dense, size=size)
    assert (done.source, done.images, done.batchnorms) == ("noise", images, 1)
    assert images == min(512, max(32, NOISE_PIXELS // size**2))


class Seen(Exception):
    pass


@pytest.mark.parametrize(("arch", "pixels"), [("mobilenet_v2", 224), ("efficientnet_b1", 240)])
def test_the_size_of_an_architectures_images_is_known(arch, pixels):
    dense = build_model(f"torchvision:{arch}", {"num_classes": 10})

    def look(_, inputs):
        raise Seen(tuple(inputs[0].shape))

    dense.register_forward_pre_hook(look)
    with pytest.raises(Seen, match=rf"\(32, 3, {pixels}, {pixels}\)"):
        tenreo.match_statistics_(build_model(f"torchvision:{arch}", {"num_classes": 10}), dense)
