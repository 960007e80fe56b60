from __future__ import annotations

import pytest

from onepeace.progress import ProgressLog, is_shown, progress_bar


def test_a_log_gets_a_line_now_and_then_with_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    log = ProgressLog(1_000, "embedding", clock=lambda: now)
    for _ in range(99):
        now += 4.0  # 2.5 a second
        log.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 99 * 4 // 32
    assert lines[0] == "embedding 80/1000, 2.5/s, 0:06:08 left"
    assert lines[-1] == "embedding 960/1000, 2.5/s, 0:00:16 left"
    now += 1_000
    log.advance(10)
    assert capsys.readouterr().err == "embedding 1000/1000, 0.04/s\n"


def test_short_work_leaves_no_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (None, False):
        with progress_bar(3, show=show) as advance:
            advance(3)
    assert capsys.readouterr() == ("", "")
    with progress_bar(3, "reading", show=True) as advance:
        advance(3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("reading 3/3, ")


def test_a_terminal_gets_a_bar_with_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(300) as advance:
        for _ in range(3):
            advance(100)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "300/300" in captured.err
    assert "/s" in captured.err


def test_progress_within_progress_moves_it_by_fractions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onepeace.progress.EVERY", 0.0)  # a line each time
    assert not is_shown()
    with progress_bar(3, "films") as advance:
        assert is_shown()
        advance(1)
        with progress_bar(8, "frames", show=True) as inner:
            inner(2)
            inner(4)
            inner(40)  # never beyond its one
        advance(1)
        with progress_bar(8, show=False) as inner:
            inner(2)
    done = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert done == ["1/3,", "1.25/3,", "1.75/3,", "2/3,", "1/3,", "2/3,", "2/3,"]
    assert not is_shown()
