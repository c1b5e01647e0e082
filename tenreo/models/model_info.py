"""What is known about a model that is built by name: its classes, weights and preprocessing."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from tenreo.files.records import INTERPOLATIONS, ModelInfo, Preprocess
from tenreo.models.builders import require_timm, with_transform
from tenreo.models.names import architecture_names


def model_info(
    builder: str, kwargs: Mapping[str, Any] | None = None, model: nn.Module | None = None, weights: Any = None
) -> ModelInfo:
    """Return the info of a model, with the classes and the preprocessing that its source states.

    A classifier of torchvision without arguments other than `num_classes` is described by its architecture, any other
    model by its builder.

    >>> info = model_info("torchvision:resnet18")
    >>> info.arch, info.classes, info.weights, info.preprocess.crop
    ('resnet18', 1000, 'IMAGENET1K_V1', 224)

    Args:
        builder: timm:NAME, torchvision:NAME, or package.module:function.
        kwargs: arguments of the builder.
        model: the model that was built with them; needed for the classes and the preprocessing of models that are not
            torchvision's.
        weights: member of torchvision's enumeration of the model's weights; by default the first one, which for the
            paper's architectures is its baseline.
    """
    source, _, name = builder.partition(":")
    kwargs, preprocess = dict(kwargs or {}), Preprocess()
    if source == "torchvision":
        weights = weights or next(iter(weights_of(name)), None)
        preprocess = _preset(weights)
        if set(kwargs) <= {"num_classes"} and name in architecture_names():
            # torchvision's own builders set `transform_input` for all of its weights of these architectures.
            classes = kwargs.get("num_classes", len(weights.meta["categories"]))
            return with_transform(ModelInfo(name, classes, weights.name, preprocess), True)
    elif source == "timm" and model is not None:
        preprocess = timm_preprocess(require_timm().data.resolve_model_data_config(model))
    classes = getattr(model, "num_classes", None) or kwargs.get("num_classes")
    known = isinstance(classes, int) and classes > 0
    return ModelInfo(classes=classes if known else None, preprocess=preprocess, builder=builder, kwargs=kwargs)


def weights_of(name: str) -> Any:
    """Return torchvision's enumeration of the weights of a model; imports torchvision."""
    import torchvision

    return torchvision.models.get_model_weights(name)


def timm_preprocess(config: Mapping[str, Any]) -> Preprocess:
    """Return the preprocessing of a timm configuration, whose `crop_pct` is crop / resize."""
    channels, crop = int(config["input_size"][0]), int(config["input_size"][-1])
    resize = math.floor(crop / config["crop_pct"])
    interpolation = config["interpolation"] if config["interpolation"] in INTERPOLATIONS else "bicubic"
    mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
    return Preprocess(resize, crop, mean, std, interpolation, channels)


def _preset(weights: Any) -> Preprocess:
    """Return the preprocessing of torchvision's weights of a classifier, or the usual values for any other task."""
    t: Any = None if weights is None else weights.transforms()
    if not all(hasattr(t, part) for part in ("resize_size", "crop_size", "mean", "std", "interpolation")):
        return Preprocess()
    resize, crop = (size[0] if isinstance(size, (list, tuple)) else size for size in (t.resize_size, t.crop_size))
    if not isinstance(resize, int) or not isinstance(crop, int):
        return Preprocess()
    return Preprocess(resize, crop, tuple(t.mean), tuple(t.std), t.interpolation.value)
