"""Tests of `tenreo sweep`."""

import json

import pytest
from processes import here, refused

from tenreo import Progressive, Recipe, Uniform


@pytest.fixture
def job(dense_file):
    return ("sweep", "-a", "shufflenet_v2_x0_5", "--weights", dense_file, "--include", "fc", "--refine", 1)


def test_counts_equal_those_of_the_paper(inside):
    job = ("sweep", "-a", "resnet50", "-g", 4, 8, "-r", 0.5, 1, "--progressive", "--dry-run")
    rows = json.loads(here(*job, "--json").stdout)["rows"]
    assert [(r["groups"], r["rate"]) for r in rows] == [(None, None), (4, 0.5), (4, 1), (8, 0.5), (8, 1)]
    assert rows[2]["paper_trainable"] == 1732024 and rows[3]["parameters"] == 6486920
    assert max(map(len, here(*job, columns=80).stdout.splitlines())) <= 80


def test_settings_are_measured_and_plotted(job, inside):
    job = (*job, "-g", 8, "-r", 8, 16)
    rows = json.loads(
        here(*job, "--data", "digits", "--limit", 40, "--no-match-statistics", "--plot", "s.png", "--json").stdout
    )["rows"]
    shown = here(*job, "--data", "digits", "--limit", 4, columns=80).stdout
    assert max(map(len, shown.splitlines())) <= 80 and "rate" in shown and "weight" in shown and "0.36 M" in shown
    assert (inside / "s.png").read_bytes().startswith(b"\x89PNG")
    assert rows[1]["snr"] > rows[2]["snr"] and rows[1]["bytes"] > rows[2]["bytes"] and "top1" in rows[0]
    assert "exists already" in refused(*job, "--plot", "s.png")


@pytest.mark.parametrize("typed", [("--split", "test"), ("--labels", "l.txt"), ("--class-map", "m.txt")])
def test_the_layout_options_need_data(job, inside, typed):
    assert "give data as well" in refused(*job, "-g", 8, "-r", 8, *typed)


@pytest.mark.slow
def test_the_split_and_the_class_map_are_used(job, folder, inside):
    (folder / "val").rename(folder / "holdout")
    job = (*job, "-g", 8, "-r", 8, "--no-match-statistics", "--data", folder, "--json")
    rows = json.loads(here(*job, "--split", "holdout").stdout)["rows"]
    assert {"top1", "agreement"} <= set(rows[0])
    (folder / "map").write_text("class0 0")
    assert "lacks the classes class1, " in refused(*job, "--split", "holdout", "--class-map", folder / "map")
    assert "top1" not in json.loads(here(*job).stdout)["rows"][0]  # the images then have no labels
    assert "test: no such folder" in refused(*job, "--split", "test")


@pytest.mark.slow
def test_a_row_equals_the_result_of_compress(job, inside):
    row = json.loads(here(*job, "-g", 8, "-r", 8, "--json").stdout)["rows"][1]
    words = ("compress", *job[1:], "-g", 8, "-r", 8, "--no-match-statistics", "-o", "m.safetensors", "--json")
    made = json.loads(here(*words).stdout)
    assert (row["bytes"], row["snr"], row["parameters"]) == (made["bytes"], made["snr"], made["after"]["parameters"])


@pytest.mark.parametrize(
    "typed",
    [
        ["-g", 4, 8, "-r", 2, 3], ["-g4", 8, "-r2", 3], ["-g4", "-g8", "-r", 2, "-r", 3],
        ["-g", 4, "-g8", "-r2", "-r3"], ["--groups", 4, 8, "--rate", 2, 3], ["-g", 4, 8, "--refine", 12, "-r", 2, 3],
        ["-r", 2, 3, "-g", 4, 8, 4],
    ],
)  # fmt: skip
def test_an_option_takes_several_values(parsed, typed):
    recipes = parsed("sweep", *typed)[1]
    assert recipes == [Recipe(g, Uniform(r)) for g in (4, 8) for r in (2.0, 3.0)]


def test_rates_have_the_same_meaning_as_in_compress(parsed):
    for typed, rate in (([], Uniform(2.0)), (["--progressive"], Progressive(2.0))):
        words = ("-g", 4, "-r", 2, *typed)
        assert parsed("sweep", *words)[1] == [parsed("compress", *words)[1]] == [Recipe(4, rate)]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["-g", 4, "-r", 0.5], "rate: given 0.5, needs at least 1"),
        (["-g", 0, "-r", 2], "groups: given 0"),
        (["-g", 4, "-r", 2, "--dry-run", "--data", "digits"], "dry_run: measures nothing"),
        (["-g", 4, "-r", 2, "--plot", "no/such.png"], "there is no folder no"),
        (["-g", 4, "-r", 2, "--data", "nowhere"], "no such folder"),
        (["-g", 4, "-r", 2, "--exclude", "nothing"], "exclude: pattern 'nothing' matches no"),
        (["-g", 4, "-r", 2, 5, "x"], "Invalid value for '"),
    ],
)
def test_bad_input_is_refused(inside, typed, message):
    assert message in refused("sweep", "-a", "mobilenet_v2", "--weights", "none", *typed)
    assert not list(inside.iterdir())
