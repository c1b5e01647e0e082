"""`--inputs`, `--loader` and `--metric` for models that take no images, and the limits of `tenreo evaluate`."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from processes import here, refused

import tenreo

MODULE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.gru = nn.Embedding(200, 32), nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, 10)
    def forward(self, tokens):
        return self.head(self.gru(self.embed(tokens))[0][:, -1])
def loader():
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        yield torch.randint(0, 200, (8, 6), generator=generator), torch.arange(8)
def correct(outputs, batch):
    return (outputs.argmax(1) == batch["targets"]).float()
def mean_output(outputs, batch):
    return outputs.mean()
def fails(outputs, batch):
    raise KeyError("boxes")
"""
MODEL = ("--model", "wordnet:Net")
EVALUATE = ("evaluate", "w.safetensors", *MODEL)
ON_INPUTS = (*EVALUATE, "--inputs", "in.npz")


@pytest.fixture(scope="module")
def made_in_module():
    """Content of the compressed file once a test of this module has made it."""
    return {}


@pytest.fixture
def words(inside, monkeypatch, made_in_module):
    """A folder with the module, inputs, weights, and the compressed file of a network that reads words."""
    (inside / "wordnet.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [str(inside), *sys.path])
    generator = np.random.default_rng(0)
    arrays = {"tokens": generator.integers(0, 200, (24, 6)), "targets": generator.integers(0, 10, 24)}
    np.savez(inside / "in.npz", **arrays)
    import wordnet

    torch.save(wordnet.Net().state_dict(), "w.pth")
    path = inside / "w.safetensors"
    if path.name not in made_in_module:
        here("compress", *MODEL, "--weights", "w.pth", "--inputs", "in.npz", "--bits", 3, "-o", path)
        made_in_module[path.name] = path.read_bytes()
    path.write_bytes(made_in_module[path.name])
    yield wordnet, {name: torch.from_numpy(array) for name, array in arrays.items()}
    sys.modules.pop("wordnet", None)


def outputs(wordnet, tokens, name="w.safetensors"):
    """Return the outputs of the compressed and of the dense model."""
    small, dense = tenreo.load(name, wordnet.Net()).eval(), wordnet.Net().eval()
    with torch.no_grad():
        return small(tokens), dense(tokens)


def test_a_model_without_images_is_corrected_measured_and_exported(words):
    wordnet, arrays = words
    own, dense = outputs(wordnet, arrays["tokens"])
    result = json.loads(here(*ON_INPUTS, "--against", "dense", "--metric", "wordnet:correct", "-b", 7, "--json").stdout)
    correct = (own.argmax(1) == arrays["targets"]).double().numpy()
    assert result["metric"]["value"] == pytest.approx(correct.mean()) and result["metric"]["examples"] == 24
    draws = np.random.default_rng(9).choice(correct, (4000, 24)).mean(1)  # another bootstrap
    assert result["metric"]["interval"] == pytest.approx(np.quantile(draws, (0.025, 0.975)), abs=0.05)
    kl = (dense.softmax(1) * (dense.log_softmax(1) - own.log_softmax(1))).sum(1).mean()
    snr = 10 * torch.log10(dense.square().sum() / (own - dense).square().sum())
    assert result["against"]["kl"] == pytest.approx(kl.item(), rel=1e-3, abs=1e-8)
    assert result["against"]["snr"] == pytest.approx(snr.item(), abs=0.01)
    assert result["against"]["agreement"] == pytest.approx(
        100 * (own.argmax(1) == dense.argmax(1)).double().mean().item()
    )
    correction = json.loads(here("inspect", "w.safetensors", "--json").stdout)["model"]["corrections"][0]
    assert (correction["source"], correction["images"], correction["biases"]) == ("in.npz", 0, 0)
    here("export", "w.safetensors", *MODEL, "--inputs", "in.npz", "--to", "w.onnx")
    session = onnxruntime.InferenceSession("w.onnx", providers=["CPUExecutionProvider"])
    (exported,) = session.run(None, {session.get_inputs()[0].name: arrays["tokens"].numpy()})
    assert np.abs(exported - own.numpy()).max() < 1e-5


def test_a_loader_gives_batches_of_which_the_model_takes_its_arguments(words):
    wordnet, _ = words
    job = (*EVALUATE, "--loader", "wordnet:loader", "--metric", "wordnet:mean_output")
    output = here(*job, "--lower-is-better", "--against", "dense", columns=80).stdout
    tokens = torch.cat([batch[0] for batch in wordnet.loader()])
    assert "mean_output: lower is better" in output and max(map(len, output.splitlines())) <= 80
    own, dense = outputs(wordnet, tokens)
    assert f"{own.mean():.4f}" in output and f"{dense.mean():.4f}" in output
    limited = json.loads(here(*job, "--limit", 3, "--json").stdout)["metric"]
    assert limited["examples"] == 3 and limited["value"] == pytest.approx(outputs(wordnet, tokens[:3])[0].mean().item())


def test_the_dense_model_is_the_one_that_the_function_returns(words, monkeypatch):
    here("compress", *MODEL, "--inputs", "in.npz", "--bits", 3, "-o", "own.safetensors")
    job = ("evaluate", *MODEL, "--inputs", "in.npz", "--against", "dense", "--json")
    own, dense = outputs(words[0], words[1]["tokens"], "own.safetensors")
    snr = 10 * torch.log10(dense.square().sum() / (own - dense).square().sum())
    found = json.loads(here(*job, "own.safetensors").stdout)["against"]
    assert found["snr"] == pytest.approx(snr.item(), abs=0.01) and found["examples"] == 24
    shown = here("inspect", "own.safetensors").stdout
    assert "input: " not in shown and "statistics: nothing corrected (no BatchNorm" in " ".join(shown.split())
    monkeypatch.setattr(torch, "manual_seed", lambda seed: None)  # the function now returns other weights
    assert "wordnet:Net now returns other weights than those that were" in refused(*job, "own.safetensors", code=1)


def test_limits_end_with_exit_code_3(words):
    job = (*ON_INPUTS, "--against", "dense", "--metric", "wordnet:mean_output")
    assert not here(*job, "--fail-under-agreement", 0, "--fail-over-kl", 9, "--fail-over-metric", 5).stderr
    done = here(*job, "--fail-over-kl", 0, "--fail-under-metric", 5, code=3)
    assert "w.safetensors" in done.stdout and done.stderr.count("failed: w.safetensors: ") == 2
    assert "is over 0" in done.stderr and "is under 5" in done.stderr


def test_a_metric_of_images_is_measured_next_to_the_accuracy(compressed_file, inside, monkeypatch):
    (inside / "own.py").write_text("def hits(outputs, batch): return (outputs.argmax(1) == batch[1]).float()")
    monkeypatch.setattr(sys, "path", [str(inside), *sys.path])
    job = ("evaluate", compressed_file, "--data", "digits", "--limit", 20, "-b", 8, "--metric", "own:hits")
    result = json.loads(here(*job, "--fail-under-metric", 0, "--json").stdout)
    assert result["metric"]["value"] == pytest.approx(result["top1"] / 100) and result["metric"]["examples"] == 20
    done = here(*job, "--fail-over-metric", 0, columns=80, code=3)
    assert "hits: higher is better" in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    assert "is over 0" in done.stderr


def test_limits_of_images(compressed_file):
    job = ("evaluate", compressed_file, "--data", "digits", "--limit", 20)
    assert not here(*job, "--fail-under-top1", 0).stderr
    done = here(*job, "--fail-under-top1", 100, "--json", code=3)
    assert json.loads(done.stdout)["top1"] < 100 and "top1" in done.stderr and "is under 100" in done.stderr
    assert "fail_over_kl: given 0.1, but the result is not measured; needs --against" in refused(
        *job, "--fail-over-kl", 0.1
    )


@pytest.mark.parametrize(
    ("job", "code", "message"),
    [
        (ON_INPUTS, 2, "inputs: given without something to measure; give --against dense or --metric (--inputs)"),
        ((*ON_INPUTS, "--data", "digits"), 2, "inputs: given together with images"),
        ((*ON_INPUTS, "--loader", "wordnet:loader", "--metric", "wordnet:correct"), 2, "use only one of --inputs and"),
        ((*ON_INPUTS, "--metric", "wordnet"), 2, "metric: given 'wordnet', needs package.module:function (--metric)"),
        ((*ON_INPUTS, "--metric", "timm:x"), 2, "metric: given timm:x, needs package.module:function (--metric)"),
        ((*ON_INPUTS, "--metric", "wordnet:none"), 2, "has no attribute 'none' (--metric)"),
        ((*ON_INPUTS, "--metric", "wordnet:fails"), 1, "metric: wordnet:fails fails: KeyError: 'boxes'; it is"),
        ((*ON_INPUTS, "--metric", "wordnet:Net"), 1, "metric: wordnet:Net fails: TypeError"),
        ((*EVALUATE, "--loader", "wordnet:none", "--metric", "wordnet:correct"), 1, "no attribute 'none' (--loader)"),
        ((*EVALUATE, "--inputs", "w.pth", "--metric", "wordnet:correct"), 1, "w.pth is not a file of numeric arrays"),
        ((*EVALUATE, "--inputs", "uneven.npz", "--metric", "wordnet:correct"), 1, "needs the same number, at least 1"),
    ],
)  # fmt: skip
def test_wrong_inputs_are_refused(words, job, code, message):
    np.savez("uneven.npz", tokens=np.zeros((3, 2), np.int64), targets=np.zeros(2))
    assert message in refused(*job, code=code)
