"""Noise for the correction of statistics: its spectrum, amount and size."""

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
    assert power[0, 2] > 8 * power[0, 8]  # a ratio of 16 is expected; the tolerance covers chance
    assert torch.equal(x, noise_images(64, 3, 32, seed=1)) and not torch.equal(x, noise_images(64, 3, 32, seed=2))


@pytest.mark.parametrize(("size", "images"), [(8, 512), (64, 392), (224, 32)])
def test_the_number_of_images_follows_from_their_size(size, images):
    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    done = tenreo.match_statistics_(copy.deepcopy(dense), dense, size=size)
    assert (done.source, done.images, done.batchnorms) == ("noise", images, 1)
    assert images == min(512, max(32, NOISE_PIXELS // size**2))


class FirstInput(Exception):
    """Carries the shape of the first input."""


@pytest.mark.parametrize(("arch", "pixels"), [("mobilenet_v2", 224), ("efficientnet_b1", 240)])
def test_noise_has_the_image_size_of_a_torchvision_architecture(arch, pixels):
    dense = build_model(f"torchvision:{arch}", {"num_classes": 10})

    def stop(_, inputs):
        raise FirstInput(tuple(inputs[0].shape))

    dense.register_forward_pre_hook(stop)
    with pytest.raises(FirstInput, match=rf"\(32, 3, {pixels}, {pixels}\)"):
        tenreo.match_statistics_(build_model(f"torchvision:{arch}", {"num_classes": 10}), dense)
