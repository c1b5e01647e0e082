"""Names of models and the messages about wrong ones."""

import pytest

from tenreo.errors import TenreoError
from tenreo.models.names import check_architecture


def test_a_misspelled_architecture_raises_with_similar_names():
    check_architecture("resnet50")
    with pytest.raises(TenreoError, match=r"arch: .* architecture 'resnet51'; similar names: .*resnet50"):
        check_architecture("resnet51")
    with pytest.raises(TenreoError, match=r"'fcn_resnet50'; similar names: .*resnet50"):  # a segmentation model
        check_architecture("fcn_resnet50")
