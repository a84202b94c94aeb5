"""Models that only answer, in attacks: what is asked is counted by the model itself."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import evaluation
from omnirobust.domains.blackbox import asking
from omnirobust.domains.blackbox.kept import Kept
from omnirobust.universal import learn_universal


def net(seed: int) -> nn.Module:
    """Return a small classifier of 8 x 8 images, its weights drawn from ``seed``."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    generator = torch.Generator().manual_seed(seed)
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    return layers.eval()


class Service:
    """A model that counts which inputs it was asked, and fails as often as it is told."""

    def __init__(self, seed: int = 1, fail: int = 0) -> None:
        self.model, self.seen, self.fail = net(seed), Counter[bytes](), fail

    def __call__(self, batch: Tensor) -> Tensor:
        if self.fail:
            self.fail -= 1
            raise TimeoutError("late")
        assert not batch.requires_grad and float(batch.min()) >= 0 and float(batch.max()) <= 1
        self.seen.update(row.numpy().tobytes() for row in batch)
        return self.model(batch)


X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = net(1)(X).argmax(1)
LINF, L2 = orb.Linf(0.1), orb.L2(0.7)


@pytest.mark.parametrize("threat", [LINF, L2, orb.L1(4.0), orb.L0(6)])
def test_queries_are_what_the_model_counts_and_never_more_than_allowed(threat: orb.ThreatModel) -> None:
    service = Service()
    result = orb.attack_ensemble([orb.BlackBox(service, queries=60, samples=8)], X, Y, threat)
    assert result.queries is not None and result.queries.shape == (6, 1)
    assert int(result.queries.sum()) == service.seen.total() and max(service.seen.values()) == 1
    assert int(result.queries.max()) <= 60
    judged = service.model(result.adversarial).argmax(1) != Y
    assert torch.equal(judged, result.fooled[:, 0])
    assert bool(threat.around(X).contains(result.delta).all())


def test_a_limit_ends_an_attack_of_more_steps_than_it_allows() -> None:
    service = Service()
    result = orb.attack_ensemble([orb.BlackBox(service, queries=7)], X, Y, orb.Linf(0.001), steps=50)
    assert result.queries is not None and result.queries.tolist() == [[7]] * 6
    assert service.seen.total() == 42


@pytest.mark.parametrize("threat", [LINF, L2])
def test_rows_do_not_depend_on_their_batch(threat: orb.ThreatModel) -> None:
    whole, parts = (
        orb.attack_ensemble([orb.BlackBox(Service(), queries=50)], X, Y, threat, batch_size=size) for size in (None, 2)
    )
    assert torch.equal(whole.fooled, parts.fooled)
    assert whole.queries is not None and parts.queries is not None and torch.equal(whole.queries, parts.queries)


def test_a_search_beats_nothing_at_all_and_a_surrogate_saves_questions() -> None:
    alone = orb.attack_ensemble([orb.BlackBox(Service(), queries=300)], X, Y, LINF)
    helped = orb.attack_ensemble([orb.BlackBox(Service(), queries=300, surrogates=[net(1)])], X, Y, LINF)
    assert alone.asr_all > 0.5
    assert helped.asr_all >= alone.asr_all
    assert helped.queries is not None and alone.queries is not None
    assert int(helped.queries.sum()) * 2 <= int(alone.queries.sum())


def test_it_stands_beside_a_differentiable_model_with_a_weight() -> None:
    models = {"white": net(2), "black": orb.BlackBox(Service(), queries=80)}
    y = torch.stack([net(2)(X).argmax(1), Y], 1)
    result = orb.attack_ensemble(models, X, y, orb.Linf(0.2))
    assert result.queries is not None and result.queries[:, 0].tolist() == [0] * 6
    assert 0 < int(result.queries[:, 1].max()) <= 80
    assert torch.allclose(result.weights.sum(1), torch.ones(6)) and bool((result.weights > 0).all())
    assert result.asr_avg > 0.5


def test_probabilities_fool_as_their_logits_do() -> None:
    service = Service()
    box = orb.BlackBox(lambda x: service(x).softmax(1).numpy(), output="probabilities", queries=100)
    result = orb.attack_ensemble([box], X, Y, LINF)
    assert torch.equal(service.model(result.adversarial).argmax(1) != Y, result.fooled[:, 0])


def test_a_store_answers_a_second_run_and_what_a_killed_one_has_asked(tmp_path: Path) -> None:
    def attack(service: Service) -> orb.AttackResult:
        return orb.attack_ensemble([orb.BlackBox(service, queries=40, store=tmp_path / "a", retries=0)], X, Y, LINF)

    class Killed(Service):
        def __call__(self, batch: Tensor) -> Tensor:
            if self.seen.total() > 60:
                raise KeyboardInterrupt
            return super().__call__(batch)

    killed, later, last, free = Killed(), Service(), Service(), Service()
    with pytest.raises(KeyboardInterrupt):
        attack(killed)
    first, again = attack(later), attack(last)
    alone = orb.attack_ensemble([orb.BlackBox(free, queries=40)], X, Y, LINF)
    assert not killed.seen & later.seen and killed.seen + later.seen == free.seen
    assert last.seen.total() == 0
    for result in (first, again):
        assert torch.equal(result.delta, alone.delta)
        assert result.queries is not None and alone.queries is not None and torch.equal(result.queries, alone.queries)


def test_a_record_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "answers.bin"
    kept = Kept(file, "logits")
    keys = [bytes([i]) * 16 for i in range(3)]
    kept.add({key: torch.arange(4).double().numpy() + i for i, key in enumerate(keys)})
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    found = Kept(file, "logits")
    assert list(found.answers) == keys[:2] and found.answers[keys[1]].tolist() == [1, 2, 3, 4]
    found.add({keys[2]: torch.arange(4).double().numpy() + 2})
    assert file.read_bytes() == whole
    with pytest.raises(ValueError, match="holds logits, and output is 'probabilities'"):
        Kept(file, "probabilities")


def test_what_fails_is_tried_again_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(asking.time, "sleep", waits.append)
    calm, late = (
        orb.attack_ensemble([orb.BlackBox(Service(fail=n), queries=20)], X, Y, LINF) for n in (0, 3)
    )  # fmt: skip
    assert torch.equal(calm.delta, late.delta) and waits == [0.25, 0.5, 1.0]
    with pytest.raises(ValueError, match=r"^model 'api' gave no answer, asked 4 times in a row: .*late"):
        orb.attack_ensemble({"api": orb.BlackBox(Service(fail=9), queries=20)}, X, Y, LINF)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"output": "scores"}, "output must be 'logits', 'probabilities' or 'labels', got 'scores'"),
        ({"queries": 0}, "queries must be a whole number >= 1, got 0"),
        ({"samples": 1}, "samples must be a whole number >= 2, got 1"),
        ({"retries": -1}, "retries must be a whole number >= 0, got -1"),
    ],
)
def test_arguments_are_refused_in_a_sentence(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        orb.BlackBox(Service(), **given)  # pyright: ignore[reportArgumentType]


def test_what_cannot_be_read_is_named() -> None:
    for f, told in (
        (lambda x: x.flatten(1).argmax(1), r"model 'm' must answer 6 inputs with \(6, C\) logits, C >= 2, got shape"),
        (lambda x: torch.full((len(x), 3), torch.nan), "model 'm' answered NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=told):
            orb.attack_ensemble({"m": orb.BlackBox(f)}, X, Y, LINF)
    with pytest.raises(ValueError, match="a BlackBox can be no model of perturbations that inputs share"):
        orb.attack_universal(orb.BlackBox(Service()), X.unsqueeze(1), Y.unsqueeze(1), LINF)


def test_the_estimate_of_a_linear_model_with_as_many_pairs_as_pixels_is_its_gradient() -> None:
    matrix = torch.randn(3, 5, generator=torch.Generator().manual_seed(3))
    box = orb.BlackBox(lambda x: x @ matrix.T, samples=10)
    leaf = torch.full((4, 5), 0.5).requires_grad_()
    (slope,) = torch.autograd.grad((box(leaf) * torch.tensor([1.0, -2.0, 0.5])).sum(), leaf)
    assert torch.allclose(slope, (torch.tensor([1.0, -2.0, 0.5]) @ matrix).expand(4, 5), atol=1e-4)


WEIGHT = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))


def linear(batch: torch.Tensor) -> torch.Tensor:
    return batch.flatten(1) @ WEIGHT


def rows_of_twelve() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(10, 12, generator=torch.Generator().manual_seed(1))
    return x, linear(x).argmax(1)


def test_a_model_that_writes_its_answers_over_each_other_is_read_in_time():
    buffer, (x, y) = np.zeros((4000, 3)), rows_of_twelve()

    def reusing(batch):
        buffer[: len(batch)] = linear(batch).numpy()
        return buffer[: len(batch)]

    for f in (reusing, linear):
        found = orb.attack_ensemble({"b": orb.BlackBox(f, queries=50)}, x, y, orb.Linf(0.1, bounds=(-9, 9)), seed=1)
        assert torch.equal(found.fooled[:, 0], linear(found.adversarial).argmax(1) != y)


def test_a_store_belongs_to_one_model_and_is_never_emptied(tmp_path):
    x, y = rows_of_twelve()
    both = {name: orb.BlackBox(linear, store=tmp_path / "s.bin", queries=20) for name in "ab"}
    with pytest.raises(ValueError, match="store must belong to one model alone, got "):
        orb.attack_ensemble(both, x, y, orb.Linf(0.1))
    first, second = (Kept(tmp_path / "t.bin", "logits") for _ in range(2))
    first.add({b"a" * 16: np.ones(3)})
    second.add({b"b" * 16: np.ones(3)})
    assert len(Kept(tmp_path / "t.bin", "logits").answers) == 2
    (tmp_path / "plain").write_bytes(b"")
    Kept(tmp_path / "plain", "logits").add({b"a" * 16: np.ones(3)})
    assert len(Kept(tmp_path / "plain", "logits").answers) == 1


@pytest.mark.parametrize(("queries", "samples"), [(17, 16), (9, 8), (40, 4), (3, 2)])
def test_no_more_is_asked_than_allowed_where_the_last_iterate_is_kept(queries, samples):
    x, y = rows_of_twelve()
    asked = [0]

    def counted(batch):
        asked[0] += len(batch)
        return linear(batch)

    box = orb.BlackBox(counted, queries=queries, samples=samples)
    found = orb.attack_ensemble({"b": box}, x, y, orb.L2(0.02), keep="last")
    assert found.queries is not None and found.queries.max() <= queries and int(found.queries.sum()) == asked[0]


def test_a_search_keeps_the_best():
    x, y = rows_of_twelve()
    with pytest.raises(ValueError, match="keep must be 'best' where a search moves"):
        orb.attack_ensemble({"b": orb.BlackBox(linear)}, x, y, orb.Linf(0.1), keep="last")


def test_a_black_box_from_a_pickle_is_one(tmp_path):
    (tmp_path / "fm.py").write_text("import torch\ndef f(b):\n    return b.flatten(1)[:, :3]\n")
    make = "import pickle, fm, omnirobust as o; pickle.dump(o.BlackBox(fm.f, queries=5), open('b.pkl', 'wb'))"
    use = (
        "import pickle, torch, omnirobust as o; b = pickle.load(open('b.pkl', 'rb')); x = torch.rand(4, 12)\n"
        "r = o.attack_ensemble({'b': b}, x, x[:, :3].argmax(1), o.Linf(0.01)); print(int(r.queries.max()))"
    )
    for words in (make, use):
        done = subprocess.run([sys.executable, "-c", words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) <= 5


class Labels(Service):
    """A service that says classes alone."""

    def __call__(self, batch: Tensor) -> Tensor:
        return super().__call__(batch).argmax(1)


@pytest.mark.parametrize("threat", [orb.Linf(0.15), orb.L2(1.2), orb.L1(8.0), orb.L0(20)])
def test_labels_alone_are_counted_judged_and_asked_within_their_limit(threat: orb.ThreatModel) -> None:
    fooled = []
    for row in range(3):  # each for itself: what rows ask alike (white, black) is asked once, and counted for each
        service, again, x, y = Labels(), Labels(), X[row : row + 1], Y[row : row + 1]
        result, second = (
            orb.attack_ensemble([orb.BlackBox(f, output="labels", queries=90)], x, y, threat, seed=3)
            for f in (service, again)
        )  # fmt: skip
        assert torch.equal(result.delta, second.delta) and service.seen == again.seen
        assert result.queries is not None and int(result.queries.sum()) == service.seen.total() <= 90
        assert max(service.seen.values()) == 1
        assert torch.equal(service.model(result.adversarial).argmax(1) != y, result.fooled[:, 0])
        assert bool(threat.around(x).contains(result.delta).all())
        fooled.append(result.asr_all)
    assert max(fooled) == 1.0


@pytest.mark.parametrize("threat", [orb.Linf(0.15), orb.L2(1.0)])
def test_labels_of_a_row_do_not_depend_on_its_batch(threat: orb.ThreatModel) -> None:
    def attack(**options: int | None) -> orb.AttackResult:
        return orb.attack_ensemble([orb.BlackBox(Labels(), output="labels", queries=50)], X, Y, threat, **options)  # pyright: ignore[reportArgumentType]

    whole, parts = attack(), attack(batch_size=2)
    assert torch.equal(whole.fooled, parts.fooled) and torch.equal(whole.delta, parts.delta)
    assert whole.queries is not None and parts.queries is not None and torch.equal(whole.queries, parts.queries)


def test_labels_stand_beside_scores_and_gradients_with_a_weight(tmp_path: Path) -> None:
    asked = {"white": net(2), "scores": Service(3), "labels": Labels(1)}
    y = torch.stack([net(seed)(X).argmax(1) for seed in (2, 3, 1)], 1)

    def attack() -> orb.AttackResult:
        boxes = {
            "scores": orb.BlackBox(asked["scores"], queries=150, store=tmp_path / "s"),
            "labels": orb.BlackBox(asked["labels"], output="labels", queries=150, store=tmp_path / "l"),
        }
        return orb.attack_ensemble({"white": asked["white"], **boxes}, X, y, orb.Linf(0.25))

    result = attack()
    for k, seed in enumerate((2, 3, 1)):
        assert torch.equal(net(seed)(result.adversarial).argmax(1) != y[:, k], result.fooled[:, k])
    assert result.asr_all > 0.3 and bool((result.weights > 0).all())
    assert torch.allclose(result.weights.sum(1), torch.ones(6))
    before = asked["labels"].seen.total()
    assert torch.equal(attack().delta, result.delta) and asked["labels"].seen.total() == before


def test_labels_that_are_none_and_moves_that_need_more_are_refused() -> None:
    for f, told in (
        (lambda x: x.flatten(1)[:, :3], r"model 'm' must answer 6 inputs with \(6,\) labels, got shape \(6, 3\)"),
        (lambda x: x.flatten(1)[:, 0] - 2, r"model 'm' must answer with labels 0, 1, ..., got"),
    ):
        with pytest.raises(ValueError, match=told):
            orb.attack_ensemble({"m": orb.BlackBox(f, output="labels")}, X, Y, LINF)
    box = orb.BlackBox(Labels(), output="labels", queries=9)
    with pytest.raises(ValueError, match="direction must be None, Rays or Hops, for model 'm' says labels alone"):
        orb.attack_ensemble({"m": box}, X, Y, LINF, direction=orb.Sign())
    with pytest.raises(ValueError, match="preset must be None") as told_:
        orb.attack_ensemble({"m": box}, X, Y, LINF, preset="paper")
    assert "m" in str(told_.value)


def test_a_label_beyond_all_classes_asked_about_is_read() -> None:
    said = {"n": 0}

    def growing(batch: Tensor) -> Tensor:
        said["n"] += 1
        return torch.full((len(batch),), 3 * said["n"])

    found = orb.attack_ensemble([orb.BlackBox(growing, output="labels", queries=5)], X, torch.full((6,), 3), LINF)
    assert found.asr_all == 1.0


def test_a_store_serves_the_model_that_wrote_it_alone(tmp_path: Path) -> None:
    def attack(f: object, name: str, **given: str) -> Tensor:
        box = orb.BlackBox(f, queries=20, store=tmp_path / name, **given)  # pyright: ignore[reportArgumentType]
        return orb.attack_ensemble([box], X, Y, LINF).delta

    told = "holds the answers of another model, or of other weights, or was written under another tag"
    service = Service()
    first = attack(service, "nets")
    with pytest.raises(ValueError, match=told):
        attack(Service(seed=2), "nets")
    with pytest.raises(ValueError, match=told):
        attack(service, "nets", tag="other")
    assert torch.equal(attack(Service(), "nets"), first)
    attack(Service(seed=1), "tagged", tag="v1")
    assert attack(Service(seed=2), "tagged", tag="v1") is not None  # the tag alone counts: it is the user's word
    for tag in ({"tag": "v2"}, {}):
        with pytest.raises(ValueError, match=told):
            attack(Service(), "tagged", **tag)


def test_of_a_model_without_weights_one_answer_is_compared(tmp_path: Path) -> None:
    matrix, other = (np.random.default_rng(seed).normal(size=(64, 10)) for seed in (0, 1))
    asked: list[int] = []

    def made(weight: np.ndarray) -> object:
        def f(batch: Tensor) -> np.ndarray:
            asked.append(len(batch))
            return batch.flatten(1).numpy() @ weight

        return orb.BlackBox(f, queries=20, store=tmp_path / "a")

    y = torch.as_tensor(X.flatten(1).numpy() @ matrix).argmax(1)
    first = orb.attack_ensemble([made(matrix)], X, y, LINF)  # pyright: ignore[reportArgumentType]
    asked.clear()
    again = orb.attack_ensemble([made(matrix)], X, y, LINF)  # pyright: ignore[reportArgumentType]
    assert asked == [1] and torch.equal(first.delta, again.delta)
    assert first.queries is not None and again.queries is not None and torch.equal(first.queries, again.queries)
    with pytest.raises(ValueError, match="holds the answers of another model"):
        orb.attack_ensemble([made(other)], X, y, LINF)  # pyright: ignore[reportArgumentType]


VIEWS = {"as it is": lambda x: x, "mirrored": lambda x: x.flip(-1), "darker": lambda x: 0.9 * x - 0.05}


class Anywhere(Service):
    """A service that takes inputs outside of [0, 1] too."""

    def __call__(self, batch: Tensor) -> Tensor:
        self.seen.update(row.numpy().tobytes() for row in batch)
        return self.model(batch)


@pytest.mark.parametrize(
    ("threat", "output"), [(orb.Linf(0.3), "logits"), (orb.L2(2.5), "logits"), (orb.Linf(0.3), "labels")]
)
def test_views_are_asked_counted_and_judged_each(threat: orb.ThreatModel, output: str) -> None:
    x = X[:1]
    y = torch.tensor([[int(net(1)(view(x)).argmax(1)) for view in VIEWS.values()]])
    service = Anywhere()
    box = orb.BlackBox(
        service if output == "logits" else lambda b: service(b).argmax(1), output=output, queries=240, samples=8
    )  # pyright: ignore[reportArgumentType]
    result = orb.attack_transforms(box, x, y, VIEWS, threat)
    assert result.queries is not None and result.queries.shape == (1, 3)
    assert int(result.queries.sum()) == service.seen.total() <= 240 and max(service.seen.values()) == 1
    judged = [bool(net(1)(view(result.adversarial)).argmax(1) != y[0, k]) for k, view in enumerate(VIEWS.values())]
    assert result.fooled[0].tolist() == judged and any(judged)


def test_estimates_go_through_a_view_to_the_input() -> None:
    matrix = torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    box = orb.BlackBox(lambda v: v @ matrix.T, samples=8)
    model, x = nn.Linear(4, 3, bias=False), torch.full((2, 4), 0.5)
    model.weight.data = matrix
    y = model(0.5 * x).argmax(1)
    plain, through = (
        orb.attack_transforms(
            m, x, y, {"half": lambda z: 0.5 * z.flip(-1)}, orb.L2(0.2), steps=8, stop_when_fooled=False
        )
        for m in (model, box)
    )
    assert float(torch.cosine_similarity(plain.delta, through.delta).min()) > 0.99  # in whatever units losses are
    with pytest.raises(ValueError, match="transforms must not be random where a model only answers, got 'noise'"):
        orb.attack_transforms(box, x, y, {"noise": lambda z, g: z + torch.rand(z.shape, generator=g)}, orb.L2(0.2))


def test_where_questions_are_not_counted_a_black_box_is_refused_in_a_sentence() -> None:
    service = Service()
    box = orb.BlackBox(service, queries=5)
    for what, call in (
        ("models", lambda: learn_universal({"m": box}, X, Y, LINF, over="data", epochs=1)),
        ("models", lambda: evaluation.minimal_eps([net(2), box], X, Y, "linf")),
        ("models", lambda: evaluation.minimal_l2(box, X, Y)),
        ("model", lambda: evaluation.evaluate_robustness(box, X, Y, {"linf": LINF})),
    ):
        with pytest.raises(ValueError, match=f"^{what} must have gradients, got a BlackBox: attack_ensemble and"):
            call()
    assert service.seen.total() == 0
