"""What a person sees where there is no terminal, and how work is shared."""

import os
from io import StringIO

from rich.console import Console

from tenreo.cli.shared_options import choose_workers
from tenreo.cli.terminal import console, tables


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


HOSTILE = "[/x] [bold]b[/bold] :smile: \x1b[2K\x1b]0;title\x07\nerror: forged\r\u202e"


def test_names_are_printed_as_they_are_and_obeyed_by_nothing(capsys, monkeypatch):
    monkeypatch.setattr(console, "LINE_EVERY", 0)
    console.show(f"wrote {HOSTILE}", tables.table(HOSTILE, ("name", "x\ny"), [(HOSTILE, "1")]))
    console.note(HOSTILE)
    with console.progress_bar(HOSTILE, 3) as advance:
        advance(1, HOSTILE)
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in (out + err).splitlines())
    assert "[/x] [bold]b[/bold] :smile: \\x1b[2K" in out and len(err.splitlines()) == 2
    assert not [line for line in (out + err).splitlines() if line.startswith("error")]


def test_a_live_bar_obeys_no_name(monkeypatch):
    """As on a terminal, where rich itself writes escape sequences: none but its own."""
    terminal = StringIO()
    monkeypatch.setattr(console, "Console", lambda **_: Console(file=terminal, force_terminal=True, width=200))
    with console.progress_bar("[/x] \x1b[31m", 3) as advance:
        advance(3, "[/y] \x1b]0;title\x07")
    shown = terminal.getvalue()
    assert "[/x] \\x1b[31m" in shown and "[/y] \\x1b]0;title\\x07" in shown
    assert "\x1b]" not in shown and "\x1b[31m" not in shown.replace("\x1b[31m\\x1b", "")
