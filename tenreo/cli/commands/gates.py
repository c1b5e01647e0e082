"""Limits of `tenreo evaluate`, for tests in continuous integration: exit code 3 if a model misses one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from tenreo.cli.shared_options import Options
from tenreo.errors import TenreoError
from tenreo.options import option

FAILED = 3  # exit code


@dataclass(frozen=True)
class Gates(Options):
    """Limits of the results of a model."""

    panel: ClassVar[str] = "Limits (exit code 3 if a model misses one)"

    fail_under_agreement: float | None = option(
        None, "Minimum agreement with the model of --against, in percent.", least=0, most=100, metavar="PERCENT"
    )
    fail_over_kl: float | None = option(
        None, "Maximum KL divergence from the model of --against, in nats.", least=0, metavar="NATS"
    )
    fail_under_top1: float | None = option(
        None, "Minimum top-1 accuracy in percent.", least=0, most=100, metavar="PERCENT"
    )
    fail_under_metric: float | None = option(None, "Minimum value of --metric.", metavar="NUMBER")
    fail_over_metric: float | None = option(None, "Maximum value of --metric.", metavar="NUMBER")

    @property
    def given(self) -> Iterator[tuple[str, str, float, bool]]:
        """Yield the option, the result, the limit, and whether it is a minimum, of every limit that was given."""
        for name, limit in vars(self).items():
            if limit is not None:
                _, side, result = name.split("_", 2)
                yield name, result, limit, side == "under"

    def check(self, against: bool, metric: bool, labeled: bool) -> None:
        """Raise TenreoError if a limit is given of a result that is not measured."""
        needed = {
            "agreement": (against, "needs --against"), "kl": (against, "needs --against"),
            "metric": (metric, "needs --metric"), "top1": (labeled, "needs the labels of --data"),
        }  # fmt: skip
        for name, result, limit, _ in self.given:
            measured, what = needed[result]
            if not measured:
                raise TenreoError(f"{name}: given {limit:g}, but the result is not measured; {what}")

    def missed(self, model: str, results: Mapping[str, float | None]) -> list[str]:
        """Return a sentence for every limit that a model misses; a result that could not be measured misses its limit.

        >>> Gates(fail_over_kl=0.05).missed("m.safetensors", {"kl": 0.0712})
        ['m.safetensors: kl 0.0712 is over 0.05']
        """
        texts = []
        for _, result, limit, least in self.given:
            value = results.get(result)
            if value is None:
                texts.append(f"{model}: {result} is unknown, since the outputs or the data have none")
            elif value < limit if least else value > limit:
                texts.append(f"{model}: {result} {value:.4g} is {'under' if least else 'over'} {limit:g}")
        return texts
