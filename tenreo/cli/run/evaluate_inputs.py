"""`tenreo evaluate` of models whose inputs are given by `--inputs` or `--loader`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tenreo.cli.commands.evaluate import Evaluated, EvaluatedInputs, EvaluatedOutput, Files
from tenreo.cli.run.models import open_file, open_reference
from tenreo.cli.shared_options import ModelFile
from tenreo.cli.terminal.console import show, show_json
from tenreo.cli.terminal.progress import progress_bar
from tenreo.cli.terminal.results import command_line
from tenreo.cli.terminal.tables import number, table_of_models
from tenreo.compression.parametrization import expand_
from tenreo.data.inputs import Inputs
from tenreo.errors import TenreoError
from tenreo.evaluation.agreement import Agreement, OutputAgreement, compare_outputs
from tenreo.evaluation.metric import Measurement, Metric, measure
from tenreo.hub.results import digest
from tenreo.models.builders import find_function


@dataclass
class InputResult:
    """The results of one model."""

    file: str
    is_reference: bool
    metric: Measurement | None = None
    against: OutputAgreement | None = None

    @property
    def classes(self) -> Agreement | None:
        """Agreement of the classes; None if nothing was compared, or the outputs have no classes."""
        return None if self.against is None else self.against.classes

    @property
    def limited(self) -> dict[str, float | None]:
        """The results that limits can be given for, by name."""
        return {
            "agreement": None if self.classes is None else self.classes.agreement,
            "kl": None if self.classes is None else self.classes.kl,
            "metric": None if self.metric is None else self.metric.value,
        }


@dataclass
class InputJob:
    """Evaluates models on batches of inputs."""

    inputs: Inputs
    options: EvaluatedInputs
    against: str | None
    device: torch.device
    results: list[InputResult] = field(default_factory=list)
    references: dict[str, nn.Module] = field(default_factory=dict)

    def measure(self, file: ModelFile) -> None:
        """Evaluate the model of a file, after the model that it is compared with."""
        model, header = open_file(file)
        key, reference = open_reference(self.against, header, file.model, self.references)
        model = expand_(model).to(self.device).eval()
        if reference is not None and key not in self.references:
            self.references[key] = reference.to(self.device).eval()
            if self.options.metric is not None:
                self.results.append(InputResult(key, True, self._measured(reference, Path(key).name)))
        result = InputResult(str(file.file), False, self._measured(model, file.file.name))
        if reference is not None:
            with progress_bar(f"compare {file.file.name}, examples", None) as advance:
                result.against = compare_outputs(model, reference, self.inputs.of(model), progress=advance)
        self.results.append(result)

    def _measured(self, model: nn.Module, name: str) -> Measurement | None:
        return measured(self.options.metric, model, self.inputs.of(model), name)


def measured(metric: str | None, model: nn.Module, batches: Iterable[Any], name: str) -> Measurement | None:
    """Return the metric of a model on batches, with a progress bar that shows its name; None without a metric."""
    if metric is None:
        return None
    function: Metric = find_function(metric, "metric")
    with progress_bar(f"measure {name}, examples", None) as advance:
        return measure(model, batches, function, metric, progress=advance)


def evaluate_inputs(
    files: Files, data: Evaluated, inputs: Inputs, options: EvaluatedInputs, output: EvaluatedOutput,
    device: torch.device,
) -> list[InputResult]:  # fmt: skip
    """Evaluate the models of all files, print the results, and return those of the files."""
    job = InputJob(inputs, options, data.against, device)
    for file in files.each:
        job.measure(file)
    given = [result for result in job.results if not result.is_reference]
    if output.json:
        first, *others = (_to_dict(result, options.metric, data.against) for result in given)
        common = {"data": str(inputs.source), "device": str(device), "command_line": command_line()}
        show_json("evaluate", {**first, **common, "others": others})
    else:
        _show(job, f"{inputs.source} ({device})")
    return given


def _to_dict(result: InputResult, metric: str | None, against: str | None) -> dict[str, Any]:
    return {
        "file": result.file,
        "sha256": digest(Path(result.file)),
        "metric": metric_dict(metric, result.metric),
        "against": None if result.against is None else {"model": against, **result.against.to_dict()},
    }


def metric_dict(name: str | None, result: Measurement | None) -> dict[str, Any] | None:
    """Return the JSON object of a metric; None without one."""
    return None if result is None else {"name": name, **result.to_dict()}


def metric_columns(options: EvaluatedInputs, metrics: Sequence[Measurement | None]) -> tuple[str, dict[str, list[str]]]:
    """Return what the metric is and which values are better, for a title, and its columns of a table."""
    name = str(options.metric).partition(":")[2]
    columns = {
        name: [number(m.value if m else None, 4) for m in metrics],
        "95 % interval": ["{:.4f} - {:.4f}".format(*m.interval) if m else "-" for m in metrics],
    }
    return f"{name}: {'lower' if options.lower_is_better else 'higher'} is better", columns


def _show(job: InputJob, title: str) -> None:
    columns: dict[str, list[str]] = {"model": [Path(each.file).name for each in job.results]}
    metrics, compared = [each.metric for each in job.results], [each.against for each in job.results]
    classes = [each.classes for each in job.results]
    if job.options.metric is not None:
        text, own = metric_columns(job.options, metrics)
        title, columns = f"{title}; {text}", columns | own
    columns["agreement\nin %"] = [number(a.agreement if a else None) for a in classes]
    columns["KL\nin nats"] = [number(a.kl if a else None, 4) for a in classes]
    columns["SNR of\noutputs, dB"] = [number(a.snr if a else None, 1) for a in compared]
    columns["examples"] = [f"{x.examples:,}" for m, a in zip(metrics, compared, strict=True) if (x := m or a)]
    shown = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
    show(*table_of_models(title, tuple(shown), list(zip(*shown.values(), strict=True))))


def check_single_process(option: str, size: int) -> None:
    """Raise TenreoError if several processes share an evaluation that needs an option."""
    if size > 1:
        raise TenreoError(f"{option}: is evaluated in one process; start the command without torchrun")
