"""The commands: what each takes, and where its work is done.

Bodies import torch, which takes seconds, so they are imported when all that was given is checked.
"""

from __future__ import annotations

from tenreo.cli import checks
from tenreo.cli.options import (
    Computing,
    DemoOutput,
    DenseModel,
    Encoding,
    Evaluated,
    EvaluatedOutput,
    Exported,
    File,
    Files,
    Inspected,
    Layout,
    Matching,
    ModelFile,
    Output,
    Statistics,
    SweepData,
    SweepOutput,
    TrainingData,
    TrainingOutput,
)
from tenreo.planning.recipe import Recipe
from tenreo.training.settings import Settings


def compress(dense: DenseModel, recipe: Recipe, statistics: Statistics, encoding: Encoding, output: Output) -> None:
    """Compress a model and write it to a file.

    Example: tenreo compress --arch mobilenet_v2 -g 4 -r 0.5 --progressive
    """
    checks.before_compress(dense, recipe, statistics, encoding, output)
    from tenreo.cli.run import compress

    compress.run(dense, recipe, statistics, encoding, output)


def evaluate(files: Files, data: Evaluated, layout: Layout, computing: Computing, output: EvaluatedOutput) -> None:
    """Measure the accuracy and speed of models on labeled images, and compare them.

    Example: tenreo evaluate model.safetensors --data imagenet
    """
    checks.before_evaluate(files, data, layout, computing, output)
    from tenreo.cli.run import evaluate

    evaluate.run(files, data, layout, computing, output)


def finetune(
    file: ModelFile,
    data: TrainingData,
    layout: Layout,
    settings: Settings,
    computing: Computing,
    output: TrainingOutput,
) -> None:
    """Train a compressed model: coefficients and all that is dense; positions stay.

    Example: tenreo finetune compressed.safetensors --data imagenet

    Several GPUs: torchrun --nproc-per-node 8 -m tenreo finetune ...
    """
    checks.before_finetune(file, data, layout, settings, computing, output)
    from tenreo.cli.run import finetune

    finetune.run(file, data, layout, settings, computing, output)


def inspect(file: File, shown: Inspected) -> None:
    """Show what a file holds, from its header alone.

    Example: tenreo inspect model.safetensors
    """
    from tenreo.cli.run import inspect

    inspect.run(file, shown)


def export(file: ModelFile, exported: Exported) -> None:
    """Write a model for programs that do not know tenreo: dense weights, ONNX, or a program of torch.export.

    Example: tenreo export model.safetensors --to model.onnx
    """
    checks.before_export(file, exported)
    from tenreo.cli.run import export

    export.run(file, exported)


def sweep(
    dense: DenseModel,
    recipes: list[Recipe],
    data: SweepData,
    layout: Layout,
    matching: Matching,
    encoding: Encoding,
    output: SweepOutput,
) -> None:
    """Compare settings: every -g with every -r, the order of a layer's columns found once per -g.

    Example: tenreo sweep --arch mobilenet_v2 -g 4 8 -r 0.5 1 --progressive
    """
    checks.before_sweep(dense, data, layout, encoding, output)
    from tenreo.cli.run import sweep

    sweep.run(dense, recipes, data, layout, matching, encoding, output)


def demo(output: DemoOutput) -> None:
    """Train MobileNet-V2 on 1,437 handwritten digits, compress it, fine-tune it for one epoch, compare.

    Example: tenreo demo
    """
    checks.before_demo(output)
    from tenreo.cli.run import demo

    demo.run(output)
