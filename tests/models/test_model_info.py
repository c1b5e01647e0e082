"""What is known about models that are built by name."""

import pytest
import torchvision

from tenreo.models.model_info import model_info


@pytest.mark.parametrize("arch", ["resnet50", "mobilenet_v2", "vit_b_16", "inception_v3"])
def test_the_info_of_an_architecture_is_that_of_its_weights(arch):
    info = model_info(f"torchvision:{arch}")
    weights = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
    preset = weights.transforms()
    assert (info.arch, info.classes, info.weights) == (arch, len(weights.meta["categories"]), "IMAGENET1K_V1")
    assert (info.preprocess.resize, info.preprocess.crop) == (preset.resize_size[0], preset.crop_size[0])
    assert (list(info.preprocess.mean), list(info.preprocess.std)) == (preset.mean, preset.std)
    assert info.preprocess.interpolation == preset.interpolation.value


def test_only_plain_classifiers_are_described_by_their_architecture():
    for builder, kwargs, arch in (
        ("torchvision:resnet18", {"num_classes": 5}, "resnet18"),
        ("torchvision:resnet18", {"num_classes": 5, "width_per_group": 128}, None),
        ("torchvision:fcn_resnet50", {"num_classes": 5}, None),
        ("mynet:resnet18", {}, None),
    ):
        info = model_info(builder, kwargs)
        assert info.arch == arch and info.classes == kwargs.get("num_classes")
        assert (info.builder, info.kwargs) == ((None, {}) if arch else (builder, kwargs))
