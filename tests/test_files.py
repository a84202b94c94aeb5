"""Files appear whole or not at all, in the folder that was chosen."""

from pathlib import Path

import pytest

from omnirobust._files import cache_dir, replacing


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OMNIROBUST_CACHE", "~/mine")
    assert cache_dir() == tmp_path / "mine"
    for unset in (None, ""):
        monkeypatch.setenv("OMNIROBUST_CACHE", "") if unset == "" else monkeypatch.delenv("OMNIROBUST_CACHE")
        assert cache_dir() == tmp_path / ".cache" / "omnirobust"
    assert not cache_dir().exists()


def test_a_file_is_replaced_in_one_move(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "file.txt"
    with replacing(file) as partial:
        partial.write_text("old")
        assert not file.exists()
    with replacing(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(file.parent.iterdir()) == [file]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("old")

    def break_off() -> None:
        with replacing(file) as partial:
            partial.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("file.txt", "old")]
