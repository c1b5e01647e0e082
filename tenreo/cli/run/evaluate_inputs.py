"""`tenreo evaluate` of models whose inputs are given by `--inputs` or `--loader`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tenreo.cli.commands.evaluate import Evaluated, EvaluatedInputs, EvaluatedOutput, Files
from tenreo.cli.run.models import open_file, open_reference
from tenreo.cli.shared_options import ModelFile
from tenreo.cli.terminal.console import progress_bar, show, show_json
from tenreo.cli.terminal.tables import number, table_of_models
from tenreo.compression.parametrization import expand_
from tenreo.data.inputs import Inputs
from tenreo.errors import TenreoError
from tenreo.evaluation.metric import Measurement, Metric, OutputAgreement, compare_outputs, measure
from tenreo.models.builders import find_function


@dataclass
class InputResult:
    """The results of one model."""

    file: str
    is_reference: bool
    metric: Measurement | None = None
    against: OutputAgreement | None = None

    @property
    def limited(self) -> dict[str, float | None]:
        """The results that limits can be given for, by name."""
        return {
            "agreement": None if self.against is None else self.against.agreement,
            "kl": None if self.against is None else self.against.kl,
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
        """Return the metric of a model; None without one."""
        if self.options.metric is None:
            return None
        metric: Metric = find_function(self.options.metric, "metric")
        with progress_bar(f"measure {name}, examples", None) as advance:
            return measure(model, self.inputs.of(model), metric, self.options.metric, progress=advance)


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
        show_json("evaluate", {**first, "data": str(inputs.source), "device": str(device), "others": others})
    else:
        _show(job, f"{inputs.source} ({device})")
    return given


def _to_dict(result: InputResult, metric: str | None, against: str | None) -> dict[str, Any]:
    return {
        "file": result.file,
        "metric": None if result.metric is None else {"name": metric, **result.metric.to_dict()},
        "against": None if result.against is None else {"model": against, **vars(result.against)},
    }


def _show(job: InputJob, title: str) -> None:
    columns: dict[str, list[str]] = {"model": [Path(each.file).name for each in job.results]}
    metrics, compared = [each.metric for each in job.results], [each.against for each in job.results]
    if job.options.metric is not None:
        name = job.options.metric.partition(":")[2]
        title += f"; {name}: {'lower' if job.options.lower_is_better else 'higher'} is better"
        columns[name] = [number(m.value if m else None, 4) for m in metrics]
        columns["95 % interval"] = ["{:.4f} - {:.4f}".format(*m.interval) if m else "-" for m in metrics]
    columns["agreement\nin %"] = [number(a.agreement if a else None) for a in compared]
    columns["KL\nin nats"] = [number(a.kl if a else None, 4) for a in compared]
    columns["SNR of\noutputs, dB"] = [number(a.snr if a else None, 1) for a in compared]
    columns["examples"] = [f"{x.examples:,}" for m, a in zip(metrics, compared, strict=True) if (x := m or a)]
    shown = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
    show(*table_of_models(title, tuple(shown), list(zip(*shown.values(), strict=True))))


def check_single_process(size: int) -> None:
    """Raise TenreoError if several processes share the evaluation."""
    if size > 1:
        raise TenreoError("inputs: are evaluated in one process; start the command without torchrun")
