"""Output without and with a terminal, and the number of worker processes."""

import os
from io import StringIO

import pytest
from rich.console import Console

from tenreo.cli.shared_options import choose_workers
from tenreo.cli.terminal import console, progress, tables
from tenreo.codec.shape import CurveShape, Precision
from tenreo.evaluation.accuracy import Evaluation
from tenreo.files.records import LayerErrors, LayerRecord


def test_without_a_terminal_progress_is_printed_in_lines(monkeypatch, capsys):
    for seconds, starts in ((0, ["finetune 3% loss 2", "finetune 50% loss 1"]), (60, [])):
        monkeypatch.setattr(progress, "LINE_EVERY", seconds)
        with progress.progress_bar("finetune", 100) as advance:
            advance(3, "loss 2")
            advance(done=50, text="loss 1")
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == len(starts) and all(map(str.startswith, lines, starts))
    with progress.progress_bar("finetune", 100, shown=False) as advance:
        advance(3)
    assert not capsys.readouterr().err


def test_the_stages_of_one_bar_have_shares(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY", 0)
    with progress.progress_bar("whole", 100) as bar:
        train = bar.stage("training", 60, total=30)
        train(15)
        train(30)  # more than the total
        bar.stage("measuring", 10, total=2)
        bar.stage("encoding", 30, total=3)(1)
    lines = [line.split()[:2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [["training", "30%"], ["training", "60%"], ["encoding", "80%"]]


def test_results_go_to_stdout_and_notes_to_stderr(capsys):
    console.show("[bold]wrote[/bold] 3 files")
    console.note("working")
    out, err = capsys.readouterr()
    assert (out, err) == ("[bold]wrote[/bold] 3 files\n", "working\n")


def test_a_terminal_wraps_long_lines_between_words(monkeypatch, capsys):
    """In a file or a pipe, each line stays whole."""
    text, path = "statistics: nothing corrected, on 512 images of noise (it lowered the SNR) " * 2 + ".", f"/{'x' * 90}"
    monkeypatch.setenv("COLUMNS", "80")
    console.show(text, path)
    assert capsys.readouterr().out == f"{text}\n{path}\n"
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    console.show(text, path)
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(len(line) <= 80 for line in lines) and " ".join(lines) == text and last == path


def test_tables_shorten_long_names_of_models_in_the_middle(monkeypatch, capsys):
    result = Evaluation(
        top1=99.5, top5=99.9, loss=0.1234, images=50_000, seconds=7.0, reading_seconds=3.0, peak_memory=12 * 10**9
    )
    cases = {  # width: shown names
        80: ["compres…-4-8.0", "compres…-8-8.0"], 100: ["compressed-mobile…rogressive-4-8.0"],
        140: ["compressed-mobilenet_v2-progressive-4-8.0.safetensors"],
    }  # fmt: skip
    for width, expected in cases.items():
        monkeypatch.setenv("COLUMNS", str(width))
        names = [f"compressed-mobilenet_v2-progressive-{g}-8.0.safetensors" for g in (4, 8)]
        console.show(*tables.evaluations_table("digits (cpu)", [(name, result) for name in names]))
        lines = capsys.readouterr().out.splitlines()
        rows = [line.split() for line in lines if "12000 MB" in line]
        assert lines[0] == "digits (cpu), 50,000 images" and max(map(len, lines)) <= width
        assert [row[0] for row in rows][: len(expected)] == expected
        assert [row[-4:] for row in rows] == [["7143", "12500", "12000", "MB"]] * 2


def test_models_whose_shortened_names_are_equal_are_numbered(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"{'x' * 40}{i}{'y' * 40}" for i in range(2)]
    console.show(*tables.table_of_models("title", ("model", "number"), [(name, "1" * 50) for name in names]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"model {i + 1}: {name}" for i, name in enumerate(names)] and "model  " in lines[2]


def test_a_pipe_gets_whole_names(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    console.show(tables.table("", ("layer", "n"), [("x" * 300, "1")]))
    assert "x" * 300 in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 100, 120])
def test_tables_of_layers_fit_into_a_terminal(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    record = LayerRecord((1024, 1024, 3, 3), CurveShape(8, 1048576, 294912, Precision.INT8), LayerErrors(40.0, 30.0))
    name = "transformer.blocks.17.attention.self.projection"
    console.show(tables.layers_table([(name, record)], {name: 10**6}))
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line.split() for line in lines if "40.00" in line]
    assert max(map(len, lines)) <= width and row[0][:5] == "trans" and row[0][-5:] == "ction"
    assert row[2:] == ["8", "4", "1,048,576", "int8", "0.85", "40.00"]


def test_processes_of_a_run_share_the_cores(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    assert choose_workers(None, "somewhere") == cores and choose_workers(None, "digits") == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(8 * cores))
    assert choose_workers(None, "somewhere") == 1 and choose_workers(3, "somewhere") == 3


HOSTILE = "[/x] [bold]b[/bold] :smile: \x1b[2K\x1b]0;title\x07\nerror: forged\r\u202e"


def test_markup_and_control_characters_in_names_are_printed_literally(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0)
    console.show(f"wrote {HOSTILE}", tables.table(HOSTILE, ("name", "x\ny"), [(HOSTILE, "1")]))
    console.note(HOSTILE)
    with progress.progress_bar(HOSTILE, 3) as advance:
        advance(1, HOSTILE)
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in (out + err).splitlines())
    assert "[/x] [bold]b[/bold] :smile: \\x1b[2K" in out and len(err.splitlines()) == 2
    assert not [line for line in (out + err).splitlines() if line.startswith("error")]


def test_a_live_progress_bar_escapes_control_characters(monkeypatch):
    """On a terminal, rich writes escape sequences of its own, but none that a name contains."""
    terminal = StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=terminal, force_terminal=True, width=200))
    with progress.progress_bar("[/x] \x1b[31m", 3) as advance:
        advance(3, "[/y] \x1b]0;title\x07")
    text = terminal.getvalue()
    assert "[/x] \\x1b[31m" in text and "[/y] \\x1b]0;title\\x07" in text
    assert "\x1b]" not in text and "\x1b[31m" not in text.replace("\x1b[31m\\x1b", "")


def test_a_bar_shows_the_part_that_is_done(monkeypatch):
    terminal = StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=terminal, force_terminal=True, width=100))
    with progress.progress_bar("columns", 400) as advance:
        advance(100)
        advance(900)  # estimates of the work may be too low
    text = terminal.getvalue()
    assert "100%" in text and "250%" not in text and "400/400" not in text
    with progress.busy("starting"):
        pass
    assert "starting" in terminal.getvalue()
