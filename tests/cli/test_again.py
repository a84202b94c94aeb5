"""A run knows the command that makes it again."""

import shlex
from base64 import b64encode
from hashlib import sha256

import pytest

from omnirobust.cli import main
from omnirobust.jobs.folder import RunFolder


def test_a_run_knows_its_command_as_one_types_it_and_the_page_offers_to_copy_it(digits, tmp_path, capsys):
    words = ["attack", "ensemble", "--data", "digits", "--models", "a", "c", "--norm", "linf", "--eps", "38/255"]
    words += ["--images", "8", "--steps", "2", "--stop-when-fooled", "--loss", "dlr"]
    with pytest.raises(SystemExit):
        main([*words, "--out", str(tmp_path / "run")])
    command = RunFolder.open(tmp_path / "run").command
    assert set(shlex.split(command)) == {"omnirobust", *words}
    page = (tmp_path / "run" / "report.html").read_text()
    shown = " ".join(f"<span>{word}</span>" for word in command.split(" "))  # lines break between words alone
    assert f"<code>{shown}</code><button" in page
    digest = b64encode(sha256(page.split("<script>")[1].split("</script>")[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    with pytest.raises(SystemExit):
        main([*shlex.split(command)[1:], "--out", str(tmp_path / "again")])
    assert RunFolder.open(tmp_path / "again").config == RunFolder.open(tmp_path / "run").config
