"""Where there is no terminal, a line a minute says how far a command has come."""

from __future__ import annotations

import pytest

from omnirobust.cli import console


@pytest.mark.parametrize(("shown", "told"), [(True, "table: 30 of 100\ntable: 61 of 100\n"), (False, "")])
def test_without_a_terminal_a_line_a_minute(capsys, monkeypatch, shown, told):
    seconds = [0.0]
    monkeypatch.setattr(console, "monotonic", lambda: seconds[0])
    with console.progress_bars(shown=shown) as advance:
        for done in range(31):  # two seconds each
            seconds[0] = 2.0 * done
            advance("table", done, 100)
        for done in range(31, 70):
            seconds[0] = 2.0 * done - 2
            advance("table", done, 100)
    assert capsys.readouterr().err == told
