"""Compress, save, load and export models of many kinds, and compare the outputs.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/any_model.py [timm] [tasks] [transformers] [own] [later] [NAME ...]

The weights are random and the encoding is the paper's, because this script measures only what loading and exporting
change. A row contains the percentage of parameters that are compressed, the largest difference between the outputs of
the compressed model and of the model loaded from its file (0.0 if they are equal), and the largest difference of the
outputs of ONNX Runtime: for the batch of the export and, if the program accepts any batch size, for another one.
Detections are compared without regard to order, because scores that are nearly equal may be sorted either way. The
script needs tenreo[timm,onnx] and transformers.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from common import parser, row, table
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import tenreo
from tenreo.exporting.comparison import largest_difference
from tenreo.models.builders import build_model
from tenreo.models.inputs import takes_lists

RECIPE = tenreo.Recipe(4, tenreo.Uniform(4.0), refine=0)
ALLOWED = 1e-4  # largest acceptable difference of ONNX Runtime, relative to the largest output
TIMM = (
    "resnet10t", "convnext_atto", "vit_tiny_patch16_224", "efficientnet_b0", "mobilenetv3_small_050", "regnetx_002",
    "resmlp_12_224", "xcit_nano_12_p16_224", "mobilevit_xxs", "edgenext_xx_small", "poolformer_s12", "ghostnet_100",
    "levit_128s", "pvt_v2_b0", "fastvit_t8", "nf_regnet_b0", "hrnet_w18_small", "repvgg_a0", "tiny_vit_5m_224",
    "cait_xxs24_224", "densenet121", "swin_tiny_patch4_window7_224",
)  # fmt: skip

LATER = {
    "efficientvit_b0": 224,
    "mobilenetv4_conv_small": 224,
    "crossvit_tiny_240": 240,
    "volo_d1_224": 224,
}  # held-out models of timm, and the sides of their images in pixels


def image(*shape: int) -> Callable[[int], Tensor]:
    """Return a function that makes a batch of the given number of random images of a shape."""
    return lambda count: torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))


def words(count: int, length: int = 9) -> Tensor:
    """Return a batch (count, length) of random token ids."""
    return torch.randint(0, 500, (count, length), generator=torch.Generator().manual_seed(count))


def lists(count: int) -> tuple[list[Tensor]]:
    """Return images in the form that detectors accept: one list as the only argument."""
    return ([each[0] for each in map(image(3, 160, 160), range(1, count + 1))],)


def pairs(count: int) -> tuple[Tensor, Tensor]:
    """Return the two consecutive images that a model of optical flow accepts."""
    first, second = image(6, 128, 128)(count).split(3, dim=1)
    return first, second


SMALL = {"min_size": 160, "max_size": 160}
ALL = SMALL | {"box_score_thresh": 0.0}  # random weights give low scores, and no detections with the default threshold
HALF = image(3, 112, 112)
CLIP = image(3, 8, 64, 64)
TASKS: dict[str, tuple[Callable[[int], Any], dict[str, Any]]] = {
    "fcn_resnet50": (HALF, {}), "deeplabv3_mobilenet_v3_large": (HALF, {}), "lraspp_mobilenet_v3_large": (HALF, {}),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (lists, ALL), "ssdlite320_mobilenet_v3_large": (lists, {}),
    "retinanet_resnet50_fpn": (lists, SMALL), "maskrcnn_resnet50_fpn": (lists, ALL),
    "keypointrcnn_resnet50_fpn": (lists, ALL), "r3d_18": (CLIP, {}), "s3d": (image(3, 16, 224, 224), {}),
    "swin3d_t": (CLIP, {}), "raft_small": (pairs, {}),
}  # fmt: skip


def bert() -> nn.Module:
    """Return BERT with two layers."""
    import transformers as t

    config = t.BertConfig(
        vocab_size=500, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256
    )
    return t.BertModel(config)


def gpt2() -> nn.Module:
    """Return GPT-2, whose linear layers are transposed (Conv1D) and whose output layer shares the embedding."""
    import transformers as t

    config = t.GPT2Config(vocab_size=500, n_positions=64, n_embd=128, n_layer=2, n_head=4, use_cache=False)
    return t.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    """Return Llama with two layers."""
    import transformers as t

    config = t.LlamaConfig(
        vocab_size=500, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        use_cache=False,
    )  # fmt: skip
    return t.LlamaForCausalLM(config)


def vit() -> nn.Module:
    """Return the ViT of transformers."""
    import transformers as t

    config = t.ViTConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, image_size=64, num_labels=10
    )
    return t.ViTForImageClassification(config)


def t5() -> nn.Module:
    """Return the encoder and decoder of T5, which share an embedding."""
    import transformers as t

    config = t.T5Config(vocab_size=500, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, use_cache=False)
    return t.T5Model(config)


class Repeated(nn.Module):
    """A model with one layer that is registered under three names and runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        layer = nn.Conv2d(64, 64, 3, padding=1)
        self.shared = nn.ModuleList([layer, layer, layer])
        self.out = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 3, height, width) to (batch, 64)."""
        x = self.first(x)
        for layer in self.shared:
            x = x + layer(x).relu()
        return self.out(x.mean((2, 3)))


class Normed(nn.Module):
    """A model with both implementations of weight_norm, spectral_norm, and plain layers."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # this implementation is deprecated
            self.old = nn.utils.weight_norm(nn.Linear(64, 64))
        self.new = nn.utils.parametrizations.weight_norm(nn.Conv1d(64, 64, 3, padding=1))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64))
        self.plain = nn.Linear(64, 64)
        self.transposed = nn.ConvTranspose1d(64, 64, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 64, length) to (batch, 64)."""
        x = self.transposed(self.new(x)).mean(2)
        return self.plain(self.spectral(self.old(x).relu()))


class Recurrent(nn.Module):
    """A model with an embedding, an LSTM and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, 64)
        self.lstm = nn.LSTM(64, 64, 2, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(128, 4, batch_first=True)
        self.out = nn.Linear(128, 64)

    def forward(self, text: Tensor) -> Tensor:
        """Map token ids (batch, words) to (batch, 64)."""
        x = self.lstm(self.embedding(text))[0]
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Tied(nn.Module):
    """A language model whose output layer shares the weight of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, 128)
        self.layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
        self.out = nn.Linear(128, 500, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, text: Tensor) -> Tensor:
        """Map token ids (batch, words) to (batch, words, 500)."""
        return self.out(self.layer(self.embedding(text)))


class Bare(nn.Module):
    """A model with parameters outside of layers: a matrix, a list of matrices, and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(64, 128) / 8)
        self.mix = nn.ParameterList([nn.Parameter(torch.randn(128, 128) / 11) for _ in range(2)])
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.out = nn.Linear(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 64) to (batch, 64)."""
        x = x @ self.table
        for mix in self.mix:
            x = torch.relu(x @ mix) * self.scale
        return self.out(x)


TEXT = {
    "bert": lambda n: {"input_ids": words(n), "attention_mask": torch.ones(n, 9, dtype=torch.int64)},
    "gpt2": lambda n: {"input_ids": words(n)}, "llama": lambda n: {"input_ids": words(n)},
    "vit": lambda n: {"pixel_values": image(3, 64, 64)(n)},
    "t5": lambda n: {"input_ids": words(n), "decoder_input_ids": words(n, 5)},
}  # fmt: skip
OWN = {
    "Repeated": image(3, 32, 32), "Normed": image(64, 16), "Recurrent": words, "Tied": words, "Bare": image(64),
}  # fmt: skip


@dataclass
class Case:
    """A model to test.

    Attributes:
        source: name of the model, SOURCE:NAME; names of this module are any_model:NAME.
        batch: function that makes a batch with the given number of inputs.
        kwargs: arguments of the model's builder.
        recipe: how to compress the model.
    """

    source: str
    batch: Callable[[int], Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    recipe: tenreo.Recipe = RECIPE


def cases() -> dict[str, list[Case]]:
    """Return the models of each group."""
    parameters = tenreo.Recipe(4, tenreo.Uniform(4.0), include=("table", "mix.*", "out"), refine=0)
    return {
        "timm": [Case(f"timm:{name}", image(3, 224, 224)) for name in TIMM],
        "tasks": [Case(f"torchvision:{name}", batch, kwargs) for name, (batch, kwargs) in TASKS.items()],
        "transformers": [Case(f"any_model:{name}", batch) for name, batch in TEXT.items()],
        "later": [
            *(Case(f"timm:{name}", image(3, side, side)) for name, side in LATER.items()),
            Case("torchvision:fcos_resnet50_fpn", lists, SMALL | {"score_thresh": 0.0}),
            Case("torchvision:maxvit_t", image(3, 224, 224)),
        ],
        "own": [
            Case(f"any_model:{name}", batch, recipe=parameters if name == "Bare" else RECIPE)
            for name, batch in OWN.items()
        ],
    }


def outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    """Return all tensors of a model's output."""
    with torch.no_grad():
        if isinstance(batch, Mapping):
            output = model(**batch)
        else:
            output = model(*batch) if isinstance(batch, tuple) else model(batch)
    return [each for each in tree_leaves(output) if isinstance(each, Tensor)]


def enliven_(model: nn.Module, batch: Any) -> None:
    """Scale the weights so that the output of every layer has variance one.

    With their random initial weights, detectors give equal scores to all boxes, so it is arbitrary which boxes they
    return; other models return the same output for every input.
    """

    def scale(layer: Any, _: Any, output: Tensor) -> Tensor | None:
        deviation = output.std().item()
        if not 0 < deviation < float("inf"):
            return None
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter /= deviation
        return output / deviation

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d | nn.Linear | nn.ConvTranspose2d)]
    for layer in layers:
        if not layer.weight.any():
            nn.init.kaiming_normal_(layer.weight)
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    outputs(model, batch)
    for hook in hooks:
        hook.remove()


def difference(actual: list[Tensor], expected: list[Tensor], images: int, relative: bool = False) -> float:
    """Return the largest absolute difference between outputs; infinity if their shapes differ.

    Args:
        actual: outputs to check.
        expected: outputs of the compressed model.
        images: for detectors, the batch size; detections are then compared without regard to order. 0 otherwise.
        relative: whether to divide the difference by the largest expected number.
    """
    try:
        absolute = largest_difference(Path("outputs"), actual, expected, images)
    except tenreo.TenreoError:
        return float("inf")
    return absolute / (max((x.abs().max().item() for x in expected if x.numel()), default=1.0) if relative else 1.0)


def run_onnx(path: Path, batch: Any) -> list[Tensor]:
    """Return the outputs of ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values = [x.numpy() for x in tree_leaves(batch)]
    return [
        torch.from_numpy(each)
        for each in session.run(None, {i.name: x for i, x in zip(session.get_inputs(), values, strict=True)})
    ]


def round_trip(case: Case, folder: Path) -> list[str]:
    """Compress, save, load and export a model; return the cells of its row after the name."""
    torch.manual_seed(0)
    model, batch = build_model(case.source, case.kwargs, trusted=True), case.batch(2)
    images = 2 if takes_lists(model) else 0
    if images or all(each[0].allclose(each[1], 1e-3, 0) for each in outputs(model, batch)):
        enliven_(model, batch)
    plan = tenreo.resolve(case.recipe, model)
    cells = [f"{100 * plan.coverage:.0f} %", str(len(plan.compressed))]
    tenreo.compress_(model, plan)
    path = folder / "model.safetensors"
    tenreo.save(model, path, recipe=plan.recipe, builder=case.source, kwargs=case.kwargs)
    expected = outputs(model, batch)
    assert all(each.numel() for each in expected), "an output is empty"
    cells.append(f"{difference(outputs(tenreo.load(path, trust_builder=True), batch), expected, images)}")
    try:
        exported = tenreo.export(model, folder / "model.onnx", inputs=batch)
        differences = [difference(run_onnx(exported.path, batch), expected, images, relative=True)]
        if exported.dynamic:
            larger = case.batch(3)
            differences.append(difference(run_onnx(exported.path, larger), outputs(model, larger), 0, relative=True))
        verdict = "" if max(differences) <= ALLOWED else "differs"
        return [*cells, f"{max(differences):.0e}", "any" if exported.dynamic else "2", verdict]
    except Exception as error:
        return [*cells, "-", "-", str(error).splitlines()[0].partition("model.onnx: ")[2][:150] or str(error)[:150]]


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("names", nargs="*", help="groups (timm, tasks, transformers, own, later) or names of models")
    names = set(options.parse_args().names) or set(cases())
    table("model", "parameters compressed", "compressed layers", "difference of the loaded model",
          "difference of ONNX Runtime", "batch sizes of ONNX", "problem")  # fmt: skip
    for group, members in cases().items():
        for case in members:
            if group in names or case.source.partition(":")[2] in names:
                with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        row(case.source, *round_trip(case, Path(folder)))
                    except Exception as error:
                        row(case.source, "-", "-", "-", "-", "-", f"{type(error).__name__}: {str(error)[:200]}")
