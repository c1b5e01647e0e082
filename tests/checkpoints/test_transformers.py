"""Compressed folders of transformers: their configuration, the registration of the quantizer, and loading models."""

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import ROOT, here
from safetensors.torch import save_file

from tenreo.errors import TenreoError
from tenreo.files.quantization_config import compressed_config, dense_config

# A package with the parts of transformers that the quantizer is registered with.
PACKAGE = {
    "__init__": "",
    "quantizers/__init__": "from . import auto",
    "quantizers/base": "class HfQuantizer: pass",
    "utils/__init__": "",
    "utils/quantization_config": "class QuantizationConfigMixin: pass",
    "quantizers/auto": """
CONFIGS, AUTO_QUANTIZER_MAPPING = {}, {}
def register_quantization_config(name): return lambda kind: CONFIGS.setdefault(name, kind)
def register_quantizer(name): return lambda kind: AUTO_QUANTIZER_MAPPING.setdefault(name, kind)
""",
}


@pytest.mark.parametrize(
    "imports", ["import tenreo, transformers.quantizers", "import transformers.quantizers, tenreo"]
)
def test_importing_tenreo_registers_the_quantizer_in_either_order(tmp_path, imports):
    for name, text in PACKAGE.items():
        path = tmp_path / "transformers" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    code = f"""
{imports}
import inspect, sys
from transformers.quantizers import auto
assert auto.CONFIGS["tenreo"]().quant_method == "tenreo"
assert auto.AUTO_QUANTIZER_MAPPING["tenreo"].__name__ == "TenreoQuantizer"
assert "AUTO_QUANTIZER_MAPPING" in inspect.getsource(auto) and "tenreo" not in type(auto.__loader__).__module__
assert not any("tenreo" in type(finder).__module__ for finder in sys.meta_path)
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_importing_tenreo_does_not_import_transformers():
    code = "import sys, tenreo; assert not {'torch', 'transformers', 'importlib.abc'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            {"model_type": "bert", "eps": 1e-12, "name": "é"},
            {"dtype": "float16", "quantization_config": {"quant_method": "tenreo"}},
        ),
        ({"model_type": "bert", "torch_dtype": "float32"}, {"quantization_config": {"quant_method": "tenreo"}}),
        ({"model_type": "bert", "quantization_config": {"quant_method": "fp8"}}, {}),
        ({"architecture": "resnet18", "num_classes": 10}, {}),  # of timm
        ({"_class_name": "AutoencoderKL"}, {}),  # of diffusers
    ],
)
def test_the_configuration_of_a_compressed_folder_names_tenreo(before, after):
    text = json.dumps(before, indent=2) + "\n"
    changed = compressed_config(text, ["I64", "F16", "F32"])
    assert json.loads(changed) == {**before, **after} and (after or changed == text)
    after.pop("quantization_config", None)
    assert dense_config(changed) == json.dumps({**before, **after}, indent=2) + "\n"


@pytest.mark.parametrize("text", ["{", "[1]", '{"model_type": NaN}', "[" * 9999, '{"quantization_config": ["tenreo"]}'])
def test_a_configuration_that_is_none_is_copied(text):
    assert compressed_config(text, ["F32"]) == dense_config(text) == text


def test_the_configuration_is_changed_in_the_folder(inside):
    Path("net").mkdir()
    save_file({"w": torch.randn(64, 64).half()}, "net/model.safetensors")
    for text in (b'{"model_type": "bert", "name": "\xff"}', b'{\n  "model_type": "bert",\n  "dtype": "float16"\n}\n'):
        Path("net/config.json").write_bytes(text)
        here("compress", "net", "-g", 4, "-r", 2, "--refine", 0, "-o", "small")
        here("decompress", "small", "-o", "plain")
        small, plain = (Path(folder, "config.json").read_bytes() for folder in ("small", "plain"))
        assert plain == text and (b"tenreo" in small) == (b"\xff" not in text)
        shutil.rmtree("small"), shutil.rmtree("plain")


def llama(transformers):
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).bfloat16(), {"input_ids": torch.arange(20)[None]}


def bert(transformers):
    config = transformers.BertConfig(
        vocab_size=128, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    return transformers.BertForMaskedLM(config), {"input_ids": torch.arange(20)[None]}


def vit(transformers):
    config = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8
    )
    return transformers.ViTForImageClassification(config), {"pixel_values": torch.randn(1, 3, 32, 32)}


def convnext(transformers):
    config = transformers.ConvNextConfig(hidden_sizes=[32, 64, 64, 96], depths=[1, 1, 1, 1], layer_scale_init_value=1.0)
    return transformers.ConvNextForImageClassification(config), {"pixel_values": torch.randn(1, 3, 64, 64)}


def resnet(transformers):
    config = transformers.ResNetConfig(embedding_size=32, hidden_sizes=[64, 96], depths=[1, 1], layer_type="basic")
    model = transformers.ResNetForImageClassification(config).train()
    for _ in range(3):
        model(torch.randn(4, 3, 64, 64))  # moves the running statistics, which are buffers
    return model, {"pixel_values": torch.randn(1, 3, 64, 64)}


def whisper(transformers):
    config = transformers.WhisperConfig(
        vocab_size=128, d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, num_mel_bins=16, max_source_positions=50,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    inputs = {"input_features": torch.randn(1, 16, 100), "decoder_input_ids": torch.arange(9)[None]}
    return transformers.WhisperForConditionalGeneration(config), inputs


@pytest.fixture
def transformers(monkeypatch):
    """The package, without its progress bars."""
    package = pytest.importorskip("transformers", minversion="5.0")
    package.utils.logging.disable_progress_bar()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return package


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of transformers
@pytest.mark.parametrize("build", [llama, bert, vit, convnext, resnet, whisper], ids=lambda build: build.__name__)
def test_from_pretrained_loads_a_compressed_folder_like_the_decompressed_one(inside, transformers, build):
    torch.manual_seed(0)
    model, inputs = build(transformers)
    model.eval().save_pretrained("dense", max_shard_size="40KB")
    assert Path("dense/model.safetensors.index.json").exists()
    here("compress", "dense", "--bits", 6, "-o", "small")
    here("decompress", "small", "-o", "plain")
    assert Path("plain/config.json").read_bytes() == Path("dense/config.json").read_bytes()
    loaded, info = type(model).from_pretrained("small", output_loading_info=True)
    plain = type(model).from_pretrained("plain")
    assert not any(info.values())
    state, expected = loaded.state_dict(), plain.state_dict()
    assert state.keys() == expected.keys()
    assert all(state[name].dtype == value.dtype and torch.equal(state[name], value) for name, value in expected.items())
    with torch.no_grad():
        outputs = [each(**inputs).logits for each in (model, plain, loaded)]
    assert torch.equal(outputs[1], outputs[2]) and not torch.equal(outputs[0], outputs[2])
    for name, dense in model.state_dict().items():
        if dense.dim() > 1:
            assert torch.cosine_similarity(dense.flatten(), state[name].flatten(), 0) > 0.95, name
    if getattr(model.config, "tie_word_embeddings", False):
        assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert not hasattr(loaded.config, "quantization_config") and len(dict(loaded.named_parameters())) > 4
    loaded.save_pretrained("again")
    assert Path("again/config.json").read_bytes() == Path("dense/config.json").read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_loading_keeps_the_options_and_leaves_no_files(inside, transformers, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(inside))
    torch.manual_seed(0)
    model, _ = vit(transformers)
    model.eval().save_pretrained("dense")
    here("compress", "dense", "--bits", 6, "-o", "small")
    half = transformers.AutoModelForImageClassification.from_pretrained("small", dtype=torch.float16)
    base = transformers.AutoModel.from_pretrained("small")
    assert {value.dtype for value in half.parameters()} == {torch.float16}
    assert torch.equal(base.layernorm.weight, model.vit.layernorm.weight)
    with open("small/model.safetensors", "r+b") as file:
        file.truncate(5000)
    with pytest.raises(TenreoError, match=r"small/model.safetensors: cannot be read as safetensors: .* 5,000 bytes"):
        transformers.AutoModel.from_pretrained("small")
    gc.collect()
    assert not list(inside.glob("tenreo-*"))
    with pytest.raises(ValueError, match="pre-quantized"):
        config = transformers.quantizers.AutoQuantizationConfig.from_dict({"quant_method": "tenreo"})
        transformers.AutoModel.from_pretrained("dense", quantization_config=config)
