"""What the pages show runs as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

import omnirobust as orb
from omnirobust.cli import main

DOCS = Path(__file__).parents[1] / "docs"


def test_every_piece_of_the_page_on_extending_runs(digits, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    space, ran = {}, []
    text = (DOCS / "extend.md").read_text(encoding="utf-8")
    for kind, piece in re.findall(r"```(python|bash)\n(.*?)```", text, re.DOTALL):
        if file := re.match(r"# (\w+\.py)\n", piece):
            Path(file[1]).write_text(piece, encoding="utf-8")
        elif kind == "python":
            exec(compile(piece, "extend.md", "exec"), space)
        elif not piece.startswith("omnirobust zoo train"):  # the fixture has trained them
            ran.append(shlex.split(piece)[1:])
            with pytest.raises(SystemExit) as left:
                main(ran[-1])
            assert left.value.code == 0, capsys.readouterr().err
    assert [words[0] for words in ran] == ["attack", "attack", "reproduce", "reproduce", "reproduce"]
    assert torch.allclose(space["solution"].weights.sum(1), torch.ones(len(space["x"])))
    page = Path("runs/towards-worst/reproduction.md").read_text(encoding="utf-8")
    assert "| linf | avg | 30.00 |" in page and "Going to the worst model fools both" in page
    swept = Path("runs/how-far/reproduction.md").read_text(encoding="utf-8")
    points = re.findall(r"^\| ([\d.]+) \| (\w+) \| [\d.]+ \(", swept.split("| share | norm | mine |")[1], re.MULTILINE)
    assert points == [(share, norm) for norm in ("l2", "linf") for share in ("0.05", "0.2", "0.5", "1.0")]
    assert Path("runs/how-far/figures/how-far.svg").read_text(encoding="utf-8").count(">mine<") == 1
    trained = Path("runs/trained-against-both/reproduction.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| A \| ([a-z-]+) \| (seed \d) \| [\d.]+ \|", trained, re.MULTILINE)
    assert found == [(name, f"seed {n}") for name in ("natural", "average", "min-max") for n in (0, 1)]
    # As far from one goal as from another: by symmetry (0, h) with 1 + h^2 = (2 - h)^2
    assert torch.allclose(space["same"].delta, torch.tensor([0.0, 0.75]).expand(2, 2), atol=0.05)
    assert space["Momentum"]().start(None, 0.1, 5).step_size == 0.1


def test_the_page_on_models_that_only_answer_runs() -> None:
    space = {}
    (piece,) = re.findall(r"```python\n(.*?)```", (DOCS / "blackbox.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(piece, "blackbox.md", "exec"), space)
    test = space["test"]
    for found in (space["first"], space["second"]):
        assert found.asr_all > 0.5 and found.queries.max() <= 100
        said = torch.as_tensor(space["classes"](found.adversarial))
        assert torch.equal(said != test.y, found.fooled[:, 0])


def test_every_piece_of_the_page_on_ensembles_runs(digits, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = {}
    pieces = re.findall(r"```python\n(.*?)```", (DOCS / "ensembles.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(pieces) == 3
    exec(compile("\n".join(pieces), "ensembles.md", "exec"), space)
    mixed = space["mixed"]
    assert (
        bool((mixed.queries[:, 1] == 0).all()) and bool((mixed.queries[:, 0] > 0).all()) and mixed.queries.max() <= 200
    )
    assert (tmp_path / "runs/mine/report.html").read_bytes() == (tmp_path / "mine.html").read_bytes()
    result, average = space["result"], space["average"]
    assert result.adversarial.shape == result.delta.shape == (40, 1, 8, 8)
    assert result.fooled.shape == result.weights.shape == (40, 2)
    assert torch.allclose(result.weights.sum(1), torch.ones(40))
    assert average.weights.unique().tolist() == [0.5]


def test_the_tutorial_runs_from_top_to_bottom(digits, capsys) -> None:
    space = {}
    pieces = re.findall(r"```python\n(.*?)```", (DOCS / "tutorial.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(pieces) == 6
    for piece in pieces:
        exec(compile(piece, "tutorial.md", "exec"), space)
    minmax, average, before, report = (space[name] for name in ("minmax", "average", "before", "report"))
    assert before.asr_all <= average.asr_all and before.asr_all < minmax.asr_all
    assert torch.allclose(minmax.weights.sum(1), torch.ones(60))
    assert report.union <= min(report.accuracy.values()) <= report.clean
    told = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in told[:3]] == ["before", "average", "min-max"]
    assert told[-2].startswith("plain: clean") and told[-1].startswith("robust: clean")


def test_every_piece_of_the_page_on_transformations_runs(models, x, y) -> None:
    space = {"orb": orb, "models": models, "x": x, "y": y}
    pieces = re.findall(r"```python\n(.*?)```", (DOCS / "transforms.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(pieces) == 5
    seen = []
    for piece in pieces:
        exec(compile(piece, "transforms.md", "exec"), space)
        seen.append(space.get("result"))
    assert seen[0].names == ("ori", "flh", "flv", "bri", "gam", "crop", "rot")
    assert seen[2].success.shape == (9, 2) and (20 * seen[2].success).frac().abs().max() < 1e-4
    contrast = space["Contrast"](2.0)
    assert torch.allclose(contrast(x).mean((1, 2, 3)), x.mean((1, 2, 3)))
    assert torch.allclose(contrast(x).std((1, 2, 3)), 2 * x.std((1, 2, 3)))


def test_every_piece_of_the_page_on_products_runs(models, x, y) -> None:
    space = {"orb": orb, "models": models, "x": x, "y": y}
    pieces = re.findall(r"```python\n(.*?)```", (DOCS / "products.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(pieces) == 2
    for piece in pieces:
        exec(compile(piece, "products.md", "exec"), space)
    result, solution = space["result"], space["solution"]
    assert result.fooled.shape == (3, 18) and result.names[0] == "a/as is/image_0"
    assert result.adversarial.shape == (3, 3, 1, 6, 6) and result.delta.shape == (3, 1, 6, 6)
    assert result.marginal("models").shape == (3, 3) and result.settings["clip"] == "image"
    assert solution.fooled.shape == (2, 2) and solution.fooled.any()


def test_every_piece_of_the_page_on_explaining_runs(digits, capsys) -> None:
    space = {"orb": orb}
    pieces = re.findall(r"```python\n(.*?)```", (DOCS / "explain.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(pieces) == 5
    for piece in pieces:
        exec(compile(piece, "explain.md", "exec"), space)
    near, told, svg = space["near"], space["told"], space["svg"]
    assert near.distortion.shape == (20,) and near.delta.shape == (20, 1, 8, 8) and near.found.all()
    assert {ranked.name for ranked in told.ranking} == {"a", "c"} and svg.startswith("<svg")
    assert "eps_min: Spearman's rho is" in capsys.readouterr().out


def test_every_piece_of_the_page_on_robustness_runs(models, x, y) -> None:
    space = {"orb": orb, "models": models, "x": x, "y": y}
    pieces = re.findall(r"```python\n(.*?)```", (DOCS / "robustness.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(pieces) == 5
    for piece in pieces:
        exec(compile(piece, "robustness.md", "exec"), space)
    report, curve, overlap = space["report"], space["curve"], space["overlap"]
    assert report.correct.shape == (9, 3) and report.delta["l2"].shape == (9, 1, 6, 6)
    assert 0 < report.union < report.clean
    assert list(curve.union) == sorted(curve.union, reverse=True) and curve.area > 0
    assert overlap.inside.shape == overlap.norms.shape == (3, 3)
    assert space["near"].distortion.shape == (9,) and space["near"].found_uint8.dtype == torch.bool


def test_every_piece_of_the_page_on_training_runs(tmp_path) -> None:
    g = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4))
    data = torch.rand(40, 1, 6, 6, generator=g), torch.randint(0, 4, (40,), generator=g)
    space = {
        "orb": orb, "torch": torch,
        "model": model, "x": data[0][:24], "y": data[1][:24], "x_val": data[0][24:], "y_val": data[1][24:],
        "folder": tmp_path, "batches_of_group_losses": [torch.rand(1, 3, requires_grad=True) for _ in range(4)],
    }  # fmt: skip
    pieces = re.findall(r"```python\n(.*?)```", (DOCS / "training.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(pieces) == 3
    for piece in pieces:
        exec(compile(piece, "training.md", "exec"), space)
    assert space["own"].examples == 24 and "the mean of the radii" in " ".join(space["each"].notes)
    assert space["result"].weights.shape == (24, 2) and (tmp_path / "checkpoint.pt").exists()
    assert space["report"].correct.shape == (16, 2)
    assert space["w"].shape == (1, 3) and space["w"][0].argmax() == space["batches_of_group_losses"][-1].grad.argmax()


def test_every_piece_of_the_page_on_data_runs(tmp_path) -> None:
    space = {"orb": orb, "folder": tmp_path}
    pieces = re.findall(r"```python\n(.*?)```", (DOCS / "data.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(pieces) == 1
    exec(compile(pieces[0], "data.md", "exec"), space)
    shapes = space["shapes"]
    assert shapes.classes == ("circle", "square") and shapes.x.shape == (6, 1, 8, 8)
    seen = {
        (int(y), x.mul(255).round().to(torch.uint8).numpy().tobytes()) for x, y in zip(shapes.x, shapes.y, strict=True)
    }
    given = zip(space["labels"], space["pixels"], strict=True)
    assert seen == {(int(label), picture.tobytes()) for label, picture in given}


def pieces_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_every_recipe_of_the_page_on_losses_does_what_it_says() -> None:
    space: dict = {}
    pieces = pieces_of("losses.md")
    recipes = [piece for piece in pieces if "orb.attack_losses(" in piece]
    assert len(recipes) == 6 and all(len([line for line in piece.splitlines() if line]) < 10 for piece in recipes)
    with torch.random.fork_rng(devices=[]):
        for piece in pieces:
            exec(compile(piece, "losses.md", "exec"), space)
    y, names = space["y"], ("quarters", "tags", "named", "above", "hidden", "both")
    found = {name: space[name] for name in names}
    with torch.no_grad():
        seen = {
            "quarters": [
                (net(found["quarters"].adversarial).argmax(1) != space["ink"]).float().mean((1, 2)) >= 0.25
                for net in space["nets"].values()
            ],
            "tags": list(((space["tagger"](found["tags"].adversarial) > 0) != (space["truth"] > 0.5)).T),
            "named": [
                torch.cdist(torch.nn.functional.normalize(encode(found["named"].adversarial), dim=1), text)
                .gather(1, torch.stack([y, space["wanted"]], 1)).diff(dim=1)[:, 0] < 0
                for encode, text in zip(space["encoders"].values(), space["texts"].values(), strict=True)
            ],
            "above": [m(found["above"].adversarial)[:, 0] - space["share"] > 0.1 for m in space["meters"].values()],
            "hidden": [~(d(found["hidden"].adversarial) >= 0).any(1) for d in space["detectors"].values()],
            "both": [
                space["teller"](found["both"].adversarial).argmax(1) != y,
                space["meters"]["32 wide"](found["both"].adversarial)[:, 0] > space["share"] + 0.05,
            ],
        }  # fmt: skip
    for name, result in found.items():
        assert torch.equal(result.fooled, torch.stack(seen[name], 1)), name
        assert not result.notes, (name, result.notes)
        assert result.fooled.float().mean() > 0.5, name


def test_every_piece_of_the_page_on_ranges_runs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    space, ran = {}, []
    text = (DOCS / "ranges.md").read_text(encoding="utf-8")
    for kind, piece in re.findall(r"```(python|bash)\n(.*?)```", text, re.DOTALL):
        if file := re.match(r"# (\w+\.py)\n", piece):
            Path(file[1]).write_text(piece, encoding="utf-8")
        elif kind == "python":
            exec(compile(piece, "ranges.md", "exec"), space)
        else:
            ran.append(shlex.split(piece)[1:])
            with pytest.raises(SystemExit) as left:
                main(ran[-1])
            assert left.value.code == 0, capsys.readouterr().err
    assert [words[0] for words in ran] == ["train", "attack", "evaluate", "train", "attack"]
    x, plain, real, scale = (space[name] for name in ("x", "plain", "real", "SCALE"))
    for found in (plain, real):
        assert float((found.delta / scale).abs().max()) <= 0.2 * (1 + 1e-5) and not bool(found.delta[:, 0].any())
        assert bool((found.adversarial >= space["LOW"]).all()) and bool((found.adversarial <= space["HIGH"]).all())
    assert 0 < real.asr_all <= plain.asr_all
    assert torch.equal(real.adversarial[:, 2], real.adversarial[:, 2].round())
    assert set(real.adversarial[:, 4:].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(real.adversarial[:, 4:].sum(1), torch.ones(len(x))) and bool(real.delta[:, 4:].any())
    heard = space["heard"].delta.flatten(1) / space["unit"]
    assert space["heard"].asr_all > 0.5 and float(torch.linalg.vector_norm(heard, dim=1).max()) <= 4 * (1 + 1e-5)
    bands, few = space["bands"], space["few"]
    assert bands.asr_all > 0.5 and float((bands.delta / space["spread"]).abs().max()) <= 0.3 * (1 + 1e-5)
    assert int((few.delta != 0).any(1).flatten(1).sum(1).max()) == 4 and few.asr_all > 0
