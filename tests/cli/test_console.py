"""What a person sees where there is no terminal, and how work is shared."""

import os

from tenreo.cli import console
from tenreo.cli.checks import choose_workers


def test_without_a_terminal_progress_is_told_in_lines(monkeypatch, capsys):
    for seconds, lines in ((0, ["finetune 3/100 loss 2", "finetune 50/100 loss 1"]), (60, [])):
        monkeypatch.setattr(console, "LINE_EVERY", seconds)
        with console.progress_bar("finetune", 100) as advance:
            advance(3, "loss 2")
            advance(done=50, text="loss 1")
        told = capsys.readouterr().err.splitlines()
        assert len(told) == len(lines) and all(map(str.startswith, told, lines))
    with console.progress_bar("finetune", 100, shown=False) as advance:
        advance(3)
    assert not capsys.readouterr().err


def test_results_go_to_stdout_and_notes_to_stderr(capsys):
    console.show("[bold]wrote[/bold] 3 files")
    console.note("working")
    out, err = capsys.readouterr()
    assert (out, err) == ("[bold]wrote[/bold] 3 files\n", "working\n")


def test_processes_share_the_cores(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    assert choose_workers(None, "somewhere") == cores and choose_workers(None, "digits") == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(8 * cores))
    assert choose_workers(None, "somewhere") == 1 and choose_workers(3, "somewhere") == 3
