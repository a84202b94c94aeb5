import pytest
import torch

import omnirobust as orb
from omnirobust import zoo
from omnirobust.jobs import DemoJob, open_records, run_demo
from omnirobust.jobs import demo as module
from omnirobust.zoo.recipes import RECIPES


def test_the_demo_attacks_in_every_norm_and_trains_what_is_missing(tmp_path, monkeypatch):
    from dataclasses import replace

    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path / "cache"))
    for name in ("digits/a", "digits/c"):
        monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], epochs=1))
    told = []
    threads = torch.get_num_threads()
    job = DemoJob(models=("a", "c"), images=12, steps=3)
    records = run_demo(job, tmp_path / "demo", lambda what, done, total: told.append(what))
    assert [r.config["attack"]["norm"] for r in records] == ["linf", "l2", "l1", "l0"]
    assert [r.attacks for r in records] == [["average", "min-max"]] * 4
    assert zoo.card("digits/a").finished
    assert {"train digits/a", "linf: average", "l0: min-max"} <= set(told)
    assert [r.metrics for r in open_records(tmp_path / "demo")] == [r.metrics for r in records]
    assert torch.get_num_threads() == threads
    told.clear()
    run_demo(job, tmp_path / "demo", lambda what, done, total: told.append(what))
    assert told == []


@pytest.mark.parametrize("threat", module.THREATS, ids=lambda t: t.name)
def test_radii_fit_eight_by_eight_images(threat):
    assert isinstance(threat, orb.ThreatModel)
    assert 0 < threat.eps < 8
