"""A cell is what ``attack_ensemble`` says, whatever was cached, killed or shared on the way."""

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch

from omnirobust import attack_ensemble, zoo
from omnirobust.attacks.presets import PAPER
from omnirobust.core.arguments import NORMS
from omnirobust.core.threat_models import ThreatModel
from omnirobust.core.weights import Fixed, Uniform
from omnirobust.paper.ensembles import ensemble, experiments, heuristic
from omnirobust.study import attack_cells
from omnirobust.study.attack_cells import CHUNK, Cell, MeanWeightsOf, chunks
from omnirobust.study.cell_cache import CellCache

from .conftest import load_images, make_images, make_model
from .test_store import same

NAMES = ("mnist/a", "mnist/b", "mnist/c", "mnist/d")
CELL = Cell(NAMES, "linf", 0.05, PAPER["linf"], steps=6)


def directly(cell: Cell, images: int, **changes):
    data = make_images("mnist", images)
    models = {name: make_model(name) for name in cell.models}
    with torch.no_grad():
        own = torch.stack([model(data.x).argmax(1) for model in models.values()], 1)
    y = data.y if cell.labels == "true" else own
    threat = ThreatModel(NORMS[cell.norm], cell.eps)
    return attack_ensemble(models, data.x, y, threat, preset="paper", steps=cell.steps, history="full", **changes)


@pytest.mark.parametrize("labels", ["predicted", "true"])
def test_a_cell_is_what_the_attack_says(cell_cache, labels):
    cell = replace(CELL, labels=labels)
    found, expected = cell_cache.measure(cell, 40), directly(cell, 40)
    assert torch.equal(found.fooled, expected.fooled)
    assert torch.equal(found.weights, expected.weights)
    rows = expected.history.rows
    assert torch.equal(found.fooled_path, rows.fooled.transpose(0, 1))
    assert torch.equal(found.any_iterate, rows.fooled.all(2).any(0))
    assert torch.allclose(found.weights_path.float(), rows.weights.transpose(0, 1), atol=1e-3)
    assert 0 < int(found.fooled.all(1).sum()) < 40


def test_chunks_cover_all_images_and_agree_with_one_attack(cell_cache):
    images = CHUNK + 30
    assert chunks(images) == [(0, CHUNK), (CHUNK, images)]
    found = cell_cache.measure(CELL, images)
    assert torch.equal(found.fooled, directly(CELL, images).fooled)


def test_what_was_measured_is_not_measured_again(cell_cache, tmp_path):
    first = cell_cache.measure(CELL, CHUNK + 10)
    calls = {name: cell_cache._runner.model(name).calls for name in NAMES}
    assert same(cell_cache.measure(CELL, CHUNK + 10), first)
    assert same(CellCache(tmp_path / "cells", make_model, load_images).measure(CELL, CHUNK + 10), first)
    assert calls == {name: cell_cache._runner.model(name).calls for name in NAMES}
    whole = cell_cache.recall(CELL, CHUNK)
    assert same(whole, first.rows(slice(CHUNK)))


def test_recall_never_computes(cell_cache):
    assert cell_cache.recall(CELL, 10) is None
    static = replace(CELL, rule=MeanWeightsOf(CELL))
    assert cell_cache.recall(static, 10) is None
    cell_cache.measure(CELL, CHUNK)
    assert len(cell_cache.recall(CELL, CHUNK + 50)) == CHUNK
    assert cell_cache.recall(static, CHUNK) is None
    assert cell_cache.seconds(CELL, CHUNK) > 0
    assert cell_cache.seconds(static, CHUNK + 1) == 0


def test_recall_finds_static_weights_that_were_taken_over_fewer_images(cell_cache):
    static = replace(CELL, attack=replace(CELL.attack, rule=Uniform()), rule=MeanWeightsOf(CELL))
    found = cell_cache.measure(static, CHUNK)
    assert same(cell_cache.recall(static, 2 * CHUNK + 50), found)
    cell_cache.measure(CELL, 2 * CHUNK)
    assert same(cell_cache.recall(static, 2 * CHUNK), found)


def test_true_labels_reuse_the_images_whose_labels_agree(tmp_path):
    cell = replace(CELL, labels="true")
    alone = CellCache(tmp_path / "alone", make_model, load_images).measure(cell, 60)
    cell_cache = CellCache(tmp_path / "both", make_model, load_images)
    predicted = cell_cache.measure(CELL, 60)
    seen: list[int] = []
    reused = cell_cache.measure(cell, 60, seen.append)
    assert torch.equal(reused.fooled, alone.fooled)
    assert torch.equal(reused.labels, alone.labels)
    assert torch.allclose(reused.weights, alone.weights, atol=1e-5)
    assert not torch.equal(reused.labels, predicted.labels)
    assert sum(seen) == 60 * cell.steps


def test_progress_counts_every_image_and_step_once(cell_cache):
    for steps, each in ((6, 6), (1, 1), (0, 1)):
        seen: list[int] = []
        cell_cache.measure(replace(CELL, steps=steps), 33, seen.append)
        assert sum(seen) == 33 * each
        cached: list[int] = []
        cell_cache.measure(replace(CELL, steps=steps), 33, cached.append)
        assert sum(cached) == 33 * each


def test_static_weights_are_the_mean_of_another_cell(cell_cache):
    static = replace(CELL, attack=replace(CELL.attack, rule=Uniform()), rule=MeanWeightsOf(CELL))
    found = cell_cache.measure(static, 40)
    mean = directly(CELL, 40).weights.double().mean(0)
    expected = directly(CELL, 40, rule=Fixed(mean))
    assert torch.equal(found.fooled, expected.fooled)
    assert found.weights.std(0).max() < 1e-6
    assert found.weights[0].tolist() == pytest.approx(mean.tolist(), abs=1e-6)


def test_an_average_over_some_models_is_weights_of_zero_for_the_others(cell_cache):
    some = replace(heuristic("paper", "linf", "w_c+d"), steps=6, eps=0.05, labels="predicted")
    found = cell_cache.measure(some, 40)
    expected = directly(CELL, 40, rule=Fixed(torch.tensor([0.0, 0.0, 0.5, 0.5])))
    assert torch.equal(found.fooled, expected.fooled)
    assert found.fooled.shape == (40, 4)
    assert found.weights.shape == (40, 2)


@pytest.mark.parametrize("letter", ["A", "C"])
def test_table_a2_is_clean_and_fgsm_accuracy(cell_cache, letter):
    rows = {row.key: row.cell for row in experiments()["table-a2"].rows}
    data, model = make_images("mnist", 150), make_model(f"mnist/{letter.lower()}")
    clean = cell_cache.measure(rows[letter, "clean"], 150).fooled
    assert torch.equal(~clean[:, 0], model(data.x).argmax(1) == data.y)
    for eps in (0.2, 0.01):
        cell = rows[letter, "fgsm"]
        cell = replace(cell, eps=eps, attack=replace(cell.attack, step_size=eps))
        kept = 1 - float(cell_cache.measure(cell, 150).fooled.double().mean())
        x = data.x.clone().requires_grad_(True)
        with torch.enable_grad():  # away from the model's own prediction; what is right then is counted
            torch.nn.functional.cross_entropy(model(x), model(data.x).argmax(1)).backward()
        assert x.grad is not None
        seen = model((data.x + eps * x.grad.sign()).clamp(0, 1)).argmax(1)
        assert kept == pytest.approx(float((seen == data.y).double().mean()))
        cell = replace(cell, labels="true")
        kept = 1 - float(cell_cache.measure(cell, 150).fooled.double().mean())
        assert kept == pytest.approx(zoo.fgsm_accuracy(model, data.x, data.y, eps))


def test_more_images_than_there_are_is_one_sentence(cell_cache):
    with pytest.raises(ValueError, match="images must be at most 450, the test images of mnist, got 900"):
        cell_cache.measure(CELL, 900)


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from conftest import load_images, make_model
from omnirobust.paper.ensembles import ensemble
from omnirobust.study import attack_cells
from omnirobust.study.cell_cache import CellCache
attack_cells.CHUNK = 10
folder, plain = Path(sys.argv[2]), Path.replace

def replace(path, target):
    if path.name.startswith("rows-") and len(list(folder.glob("*/rows-*.safetensors"))) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(path, target)

Path.replace = replace
CellCache(folder, make_model, load_images).measure(ensemble("paper", "l2", "minmax"), 200)
"""
"""Dies before it moves the fourth chunk of twenty into its place."""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(tmp_path, monkeypatch):
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path / "killed")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "killed").glob("*/rows-*.safetensors"))) == 3
    monkeypatch.setattr(attack_cells, "CHUNK", 10)
    cell = ensemble("paper", "l2", "minmax")
    resumed = CellCache(tmp_path / "killed", make_model, load_images).measure(cell, 200)
    whole = CellCache(tmp_path / "whole", make_model, load_images).measure(cell, 200)
    assert same(resumed, whole)


def test_a_cell_that_another_process_is_at_is_left_to_it(tmp_path):
    ours, theirs = (CellCache(tmp_path, make_model, load_images) for _ in range(2))
    weighted = replace(CELL, attack=PAPER["linf"], rule=MeanWeightsOf(CELL))
    with theirs._lock(theirs._folder(CELL)):
        assert not ours.attempt(CELL, 20)
        assert not ours.attempt(weighted, 20)  # which needs the other one first
        assert not list(tmp_path.glob("*/rows-*"))
        waiting = Thread(target=ours.measure, args=(CELL, 20))
        waiting.start()
        found = theirs.measure(CELL, 20)
    waiting.join(300)
    assert not waiting.is_alive()
    assert ours.attempt(CELL, 20) and ours.attempt(weighted, 20)
    assert same(ours.measure(CELL, 20), found)


def test_what_is_measured_needs_no_lock(tmp_path):
    CellCache(tmp_path, make_model, load_images).measure(CELL, 20)
    shutil.rmtree(tmp_path / ".locks")
    assert CellCache(tmp_path, make_model, load_images).attempt(CELL, 20)
    assert not (tmp_path / ".locks").exists()
