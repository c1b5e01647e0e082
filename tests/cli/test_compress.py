"""Tests of `tenreo compress`."""

import json
import re

import pytest
from processes import here, refused

from tenreo.planning.recipe import ROUNDS

FEW = ("--include", "conv5.0", "--include", "fc")  # two layers of ShuffleNet-V2, to be fast


@pytest.fixture
def job(dense_file):
    return ("compress", "-a", "shufflenet_v2_x0_5", "--weights", dense_file, "-g", 8, "-r", 8, "--progressive", *FEW)


def test_the_default_name_is_that_of_the_reference_and_files_are_not_overwritten(job, inside):
    job = (*job, "--refine", 1, "--no-match-statistics")
    done = here(*job)
    path = inside / "compressed-shufflenet_v2_x0_5-progressive-8-8.0.safetensors"
    assert f"wrote {path.name}" in done.stdout and "with an SNR of" in done.stdout
    before = path.read_bytes()
    assert "exists already; use --force" in refused(*job)
    assert path.read_bytes() == before
    result = json.loads(here(*job, "--force", "--json", "--jobs", 1).stdout)
    assert path.read_bytes() == before  # the same command writes the same bytes, whatever the jobs
    assert result["bytes"] == len(before) and result["after"]["positions"] > 0
    assert list(inside.iterdir()) == [path]


def test_refinement_and_statistics_are_on_and_can_be_turned_off(job, inside):
    job = (*job, "--json")
    full = json.loads(here(*job, "-o", "full.st", "--refine", 2).stdout)
    assert full["snr"] > full["snr_unrefined"] + 1
    assert full["corrections"][0]["source"] == "noise" and full["corrections"][0]["images"] == 512
    plain = json.loads(here(*job, "-o", "p.st", "--refine", 0, "--no-match-statistics").stdout)
    assert plain["snr"] == plain["snr_unrefined"] == full["snr_unrefined"] and plain["corrections"] == []
    output = here("inspect", "full.st").stdout
    assert "on 512 images of noise" in output and f"{full['snr']:.2f} dB" in output
    digits = json.loads(
        here(*job, "-o", "c.st", "--refine", 0, "--calibrate", "digits", "--calibrate-batches", 1).stdout
    )
    assert digits["corrections"][0]["images"] == 64 and digits["corrections"][0]["source"] == "digits"


def test_dry_run_prints_the_counts_of_the_paper_and_writes_nothing(inside):
    job = ("compress", "-a", "resnet50", "-g", 4, "-r", 1.0, "--progressive", "--dry-run")
    plan = json.loads(here(*job, "--json").stdout)
    assert plan["after"]["coefficients"] == 1732024 and plan["recipe"]["refine"] == ROUNDS
    assert "not in the ResNet rule" in here(*job).stdout
    assert not list(inside.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-g", 0, "-r", 2.0], "groups: given 0, needs a whole number of at least 1 (-g/--groups)"),
        (
            ["-g", 4, "-r", 0.5],
            "rate: given 0.5, needs at least 1 (1 keeps every coefficient); for a progressive rate add --progressive",
        ),
        (["-g", 4, "-r", 0, "--progressive"], "progressive: given 0.0, needs a number above 0"),
        (["-g", 4, "-r", "nan"], "rate: given nan, needs a number (-r/--rate)"),
        (["-g", 4], "rate: not given; use -r 2, -r 0.5 --progressive, or a target such as --target-size (-r/--rate)"),
        (["-g", 4, "--progressive"], "progressive: needs the growth r' as the rate, such as -r 0.5"),
        (["-r", 2.0], "groups: given None, needs a whole number of at least 1, such as 4 (-g/--groups)"),
        (["-g", 4, "-r", 2.0, "--include", "nothing*"], "include: pattern 'nothing*' matches no weight of the model"),
        (["-g", 4, "-r", 2.0, "--importance", "fc=2", "--allocate"], "importance: pattern 'fc' matches no"),
        (["-g", 4, "-r", 2.0, "--importance", "fc"], "importance: given 'fc', needs a pattern and a number"),
        (["-g", 4, "-r", 2.0, "--importance", "fc=0"], "importance: given 0.0, needs a number above 0 (--importance)"),
        (["-g", 4, "-r", 2.0, "--weights", "nowhere.pth"], "neither a file, nor none, nor one of IMAGENET1K_V1"),
        (
            ["-g", 4, "-r", 2.0, "--target-size", "2MB"],
            "rate: given -r and --target-size, which exclude each other; give only one of them",
        ),
        (["--target-size", "small"], "target_size: given 'small', needs an amount such as 2.5MB or 800kB"),
        (["--target-size", "0.5x"], "target_size: given '0.5x', needs at least 1x, or at most 100% (--target-size)"),
        (["--target-size", "120%"], "target_size: given '120%', needs at least 1x, or at most 100%"),
        (["--bits", 0], "bits: given 0.0, needs a number above 0 and at most 64 (--bits)"),
        (["--bits", 4, "--target-size", "5x"], "rate: given --target-size and --bits, which exclude"),
        (["--bits", 0.01], "target_size: given 4,"),
        (["--target-size", "20kB"], "target_size: given 20,000, but the least is"),
        (["--target-size", "2MB", "--progressive"], "progressive: needs the growth"),
        (["--target-size", "2MB", "--allocate"], "allocate: a target size distributes its bytes already"),
        (["--target-params", "2M"], "groups: given None, needs a whole number"),
        (["--target-params", "many", "-g", 4], "target_params: given 'many', needs an amount such as 2.5M or 800k"),
        (["-g", 4, "-r", 2.0, "--position-bits", 40], "position_bits: given 40, needs a whole number of 1 to 31"),
        (["-g", 4, "-r", 2.0, "--jobs", 0], "jobs: given 0, needs a whole number of at least 1 (-j/--jobs)"),
        (["-g", 4, "-r", 2.0, "--device", "gpu"], "device: given 'gpu', needs auto, cpu, cuda, cuda:N or mps"),
        (["-g", 4, "-r", 2.0, "--calibrate", "nowhere"], "no such folder; the expected layout is"),
        (["-g", 4, "-r", 2.0, "--out", "no/such/folder.safetensors"], "there is no folder no/such; create it first"),
        (["-g", 4, "-r", 2.0, "--config", "none.yaml"], "none.yaml: cannot be read as YAML"),
    ],
)
def test_bad_input_is_refused(inside, options, message):
    weights = [] if "--weights" in options else ["--weights", "none"]
    assert message in refused("compress", "-a", "mobilenet_v2", *weights, *options)
    assert not list(inside.iterdir())


def test_a_target_size_is_reached_with_reproducible_bytes(inside):
    job = ("compress", "--model", "networks:convolutional", "--target-size", "40kB", "--input", "3x5x5",
           "--no-match-statistics")  # fmt: skip
    done = here(*job, "--json")
    result = json.loads(done.stdout)
    path = inside / "networks-convolutional-40kB.safetensors"
    before = path.read_bytes()
    assert 39_600 <= result["bytes"] == len(before) <= 40_000 and "instead of" not in done.stderr
    here(*job, "--force", "--jobs", 1)
    assert path.read_bytes() == before
    fifth = json.loads(here(*job[:5], "--target-size", "5x", "--dry-run", "--json").stdout)
    assert fifth["recipe"]["target_size"] == fifth["before"]["bytes"] // 5
    output = here("inspect", path).stdout
    assert "groups chosen, target size 40,000" in output and "bits per compressed weight" in output


def test_a_note_states_why_a_file_is_smaller_than_its_target(inside):
    done = here("compress", "--model", "networks:two_norms", "--target-size", "140kB", "--no-match-statistics",
                "-o", "t.safetensors")  # fmt: skip
    size = (inside / "t.safetensors").stat().st_size
    note = f"the file has {size:,} bytes instead of 140,000: more bytes would not help, since the weights have an SNR"
    assert size < 0.98 * 140_000 and note in done.stderr


def test_a_target_number_of_parameters_is_reached_and_the_rate_is_printed(inside):
    output = here("compress", "-a", "mobilenet_v2", "-g", 4, "--target-params", "2.0M", "--dry-run").stdout
    assert "recipe: 4 groups, progressive 0.7" in output
    assert re.search(r"parameters \(paper\) +3.54 M +2.00 M", output)


def test_a_full_disk_is_exit_code_1(job, inside, disk_full_after):
    with disk_full_after(20_000):
        error = refused(*job, "--refine", 0, "--no-match-statistics", code=1)
    assert "cannot be written" in error and "choose another path" in error
    assert not list(inside.iterdir())
