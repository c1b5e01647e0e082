"""The log of a run on real files."""

from pathlib import Path

import pytest

from tenreo.errors import TenreoError
from tenreo.recipe import read_yaml
from tenreo.runlog import RunLog, plot, read_log
from tenreo.runstate import Epoch, Step
from tenreo.settings import Settings, default_lr

CONFIGS = Path(__file__).parent.parent / "configs" / "finetuning"


def write(path, resume, steps, evaluated=()):
    log = RunLog(path, resume)
    for epoch, step in steps:
        log.step(Step(epoch, step, 3, 16, 0.1, 2.0 / (3 * epoch + step), 50.0, 0.5, 0.25, 10**6))
        if (epoch, step) in evaluated:
            log.epoch(Epoch(epoch, 3, 0.1, 1.0, 50.0, 60.0, None, 0.9, 2.0, 0.25))
    log.close()


def test_a_resumed_log_has_every_step_once(tmp_path):
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    steps = [(e, s) for e in (1, 2) for s in (1, 2, 3)]
    write(whole, False, steps, {(1, 3), (2, 3)})
    write(part, False, steps[:5], {(1, 3)})
    part.write_text(part.read_text()[:-7])  # cut off within its last row
    write(part, True, steps[3:], {(2, 3)})  # saved before the second epoch
    assert part.read_text() == whole.read_text()
    assert [r["split"] for r in read_log(part)].count("val") == 2
    assert read_log(part)[0]["images_per_second"] == "32"


def test_without_resume_an_older_log_is_replaced(tmp_path):
    write(tmp_path / "x.csv", False, [(1, 1), (1, 2)])
    write(tmp_path / "x.csv", False, [(1, 1)])
    assert len(read_log(tmp_path / "x.csv")) == 1


def test_pictures_are_drawn_and_other_files_refused(tmp_path):
    write(tmp_path / "x.csv", False, [(1, 1), (1, 2), (1, 3)], {(1, 3)})
    plot({"x": tmp_path / "x.csv"}, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "y.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TenreoError, match=r"y\.csv: is no log of a run"):
        plot({"y": tmp_path / "y.csv"}, tmp_path / "y.png")
    assert not (tmp_path / "y.png").exists()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_papers_settings(path):
    arch = "mobilenet_v2" if path.stem == "mobilenet_v2" else "resnet50"
    given = Settings(**read_yaml(path))
    assert given == Settings(1, 64, default_lr(arch), 0.9, 1e-4)


def test_there_are_settings_for_both_architectures():
    assert {p.stem for p in CONFIGS.glob("*.yaml")} == {"resnet", "mobilenet_v2"}
