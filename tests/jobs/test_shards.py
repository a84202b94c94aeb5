"""Processes are threads here, with a barrier between them; tests/cli/test_launch.py starts real ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import pytest
import torch
from torch import Tensor

import omnirobust as orb
from omnirobust.attacks.masking import GradientMaskingError
from omnirobust.core.threat_models import Linf
from omnirobust.jobs import AttackJob, EvaluationJob, Grouping, run_attack, run_evaluation, shards
from omnirobust.jobs import attack as attack_module
from omnirobust.training.workers import Alone

JOB = AttackJob("digits", ("a", "c"), Linf(0.1), images=10, start=4, options={"steps": 2, "batch_size": 3})
KEPT = ("config.json", "versions.json", "metrics.json", "perturbations.safetensors", "history.safetensors")


class Meeting:
    """What the threads share: a barrier that those who stop break for those who come later, and a place for values."""

    def __init__(self, count: int) -> None:
        self.count, self.values, self._arrived, self._stopped, self._changed = count, {}, 0, False, Condition()

    def wait(self) -> None:
        with self._changed:
            self._arrived += 1
            full = -(-self._arrived // self.count) * self.count
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._arrived >= full or self._stopped, 30)
            if self._arrived < full:
                raise RuntimeError("[pair.cc:537] Connection closed by peer")

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class Threads(Alone):
    """One of several processes, played by threads."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.count, self._meeting, self._calls = rank, meeting.count, meeting, 0

    def total(self, values: Tensor) -> Tensor:
        return torch.stack(self._exchanged(values)).sum(0)

    def broadcast(self, state: Any) -> Any:
        return self._exchanged(state)[0]

    def wait(self) -> None:
        self._meeting.wait()

    def _exchanged(self, value: Any) -> list[Any]:
        self._calls += 1
        self._meeting.values[self.rank, self._calls] = value
        self.wait()
        return [self._meeting.values[rank, self._calls] for rank in range(self.count)]


def together(count: int, work: Callable[[Threads], object]) -> list[BaseException | None]:
    """Run ``work`` in every one of ``count`` processes, and return how each ended."""
    meeting = Meeting(count)
    ended: list[BaseException | None] = [None] * count

    def run(rank: int) -> None:
        try:
            work(Threads(rank, meeting))
        except BaseException as error:
            ended[rank] = error
            meeting.stop()

    threads = [Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_write_what_one_writes_byte_by_byte(digits, tmp_path, count):
    run_attack(JOB, tmp_path / "one", options="eps: 0.1\n")
    ended = together(count, lambda team: run_attack(JOB, tmp_path / "many", options="eps: 0.1\n", team=team))
    assert ended == [None] * count
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert {*KEPT, "config.yaml", "examples.parquet"} == set(files(tmp_path / "one"))


def test_groups_and_drawn_transformations_are_found_alike(digits, tmp_path):
    job = AttackJob(
        "digits",
        ("a",),
        Linf(0.2),
        images=12,
        groups=Grouping(2),
        transforms=("ori", "rot:-30..30"),
        labels="predicted",
        options={"steps": 2, "batch_size": 2, "restarts": 2, "draws": 2},
    )
    run_attack(job, tmp_path / "one")
    assert together(2, lambda team: run_attack(job, tmp_path / "two", team=team)) == [None, None]
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_an_evaluation_is_shared_as_well(digits, tmp_path):
    job = EvaluationJob("digits", ("c", "a"), {"linf:0.05": Linf(0.05)}, steps=2, images=7, batch_size=3)
    run_evaluation(job, tmp_path / "one")
    assert together(2, lambda team: run_evaluation(job, tmp_path / "two", team=team)) == [None, None]
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_each_batch_is_found_once(digits, tmp_path, monkeypatch):
    seen: list[tuple[int, int]] = []
    plain = attack_module.attack_product

    def counted(*args: Any, **options: Any) -> Any:
        seen.append((options["first_row"], len(args[1])))
        return plain(*args, **options)

    monkeypatch.setattr(attack_module, "attack_product", counted)
    assert together(2, lambda team: run_attack(JOB, tmp_path / "run", team=team)) == [None, None]
    batches = [(4, 3), (7, 3), (10, 3), (13, 1)]
    assert sorted(seen) == sorted([*batches, *batches, (4, 10), (4, 10)])  # and once all, put together by the first


def test_what_a_killed_run_has_found_is_kept_under_any_number_of_processes(digits, tmp_path, monkeypatch):
    run_attack(JOB, tmp_path / "one")
    plain = attack_module.attack_product
    left = iter(range(3))

    def dying(*args: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        return plain(*args, **options)

    monkeypatch.setattr(attack_module, "attack_product", dying)
    ended = together(2, lambda team: run_attack(JOB, tmp_path / "run", team=team))
    assert any(isinstance(error, OSError) for error in ended)
    assert len(list((tmp_path / "run" / "parts").rglob("*.safetensors"))) == 3
    monkeypatch.undo()
    monkeypatch.setenv("OMNIROBUST_CACHE", str(digits))
    assert together(3, lambda team: run_attack(JOB, tmp_path / "run", team=team)) == [None] * 3
    assert files(tmp_path / "run") == files(tmp_path / "one")
    monkeypatch.setattr(attack_module, "attack_product", None)  # nothing is computed for a run that has ended
    assert together(2, lambda team: run_attack(JOB, tmp_path / "run", team=team)) == [None] * 2


def test_the_others_are_told_that_one_stopped(tmp_path):
    def work(team: Threads) -> None:
        if team.rank == 1:
            raise ValueError("mine")
        shards.wait(team)

    first, second = together(2, work)
    assert (
        isinstance(first, shards.OthersStoppedError)
        and first.exits == 3
        and str(first).startswith("Another process of this run stopped")
    )
    assert isinstance(second, ValueError)


def test_a_model_that_is_blind_on_some_batches_only_goes_on(tmp_path):
    ran: list[int] = []

    def unit(number: int, blind: bool) -> Callable[[], None]:
        def run() -> None:
            ran.append(number)
            if blind:
                raise GradientMaskingError("a has zero input gradient")

        return run

    some = [unit(n, n % 2 == 1) for n in range(4)]  # with two processes, all of the second are blind
    assert together(2, lambda team: shards.share_out(some, team)) == [None, None]
    assert sorted(ran) == [0, 1, 2, 3]
    ended = together(2, lambda team: shards.share_out([unit(n, True) for n in range(3)], team))
    assert all(isinstance(error, GradientMaskingError) for error in ended)


def test_a_folder_that_a_process_does_not_see_is_told(tmp_path):
    def work(team: Threads) -> None:
        shards.meeting_place(team, tmp_path / f"disk{team.rank}" / "run", {"job": "attack ensemble"})

    first, second = together(2, work)
    assert first is None
    assert str(second).startswith("out must be a folder that all processes see")


def test_alone_unless_launched(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not shards.launched() and isinstance(shards.workers(), Alone)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not shards.launched()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert shards.launched()


def test_the_page_on_scaling_shares_images_as_it_says(models, x, y, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    (piece,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        space = {"models": models, "x": x, "y": y, "folder": tmp_path}
        exec(compile(piece, "scaling.md", "exec"), space)
        found.append(space["result"])
    whole = orb.attack_ensemble(models, x, y, orb.Linf(8 / 255))
    assert [len(part.delta) for part in found] == [5, 4]
    assert torch.allclose(torch.cat([part.delta for part in found]), whole.delta, atol=1e-12)
    assert sorted(f.name for f in tmp_path.rglob("*.safetensors")) == ["00000.safetensors"] * 2
