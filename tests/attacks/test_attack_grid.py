"""Universal, transformation-robust and product attacks: against transcriptions, against each other, and luck."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.domains import losses
from omnirobust.domains.transforms import ImageTransform
from omnirobust.domains.transforms.base import Columns

FLIPS = {"as is": lambda v: v, "flipped": lambda v: v.flip(-1), "upside down": lambda v: v.flip(-2)}


def transcription(
    f, x: Tensor, project, K: int, T: int, alpha: float, beta: float, gamma: float
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 for one problem, word for word: every loss is evaluated when it is needed, nothing is kept."""
    delta, w = project(torch.zeros_like(x)), torch.full((K,), 1 / K, dtype=torch.float64)
    for _ in range(T):
        leaf = delta.clone().requires_grad_()
        total = sum(w[k] * f(k, leaf) for k in range(K))
        assert isinstance(total, Tensor)
        delta = project(delta - alpha * torch.autograd.grad(total, leaf)[0])
        F = torch.stack([f(k, delta).detach() for k in range(K)])
        w = orb.project_simplex(w + beta * (F - gamma * (w - 1 / K)))
    return delta, w


@pytest.mark.parametrize("clip", ["image", "intersection"])
@pytest.mark.parametrize("threat", [orb.Linf(0.1), orb.L2(0.7), orb.L1(2.0), orb.L0(5)], ids=lambda t: t.name)
def test_universal_is_algorithm_1_over_the_images_of_a_group(models, x, y, clip, threat) -> None:
    groups, labels, model = x.view(3, 3, 1, 6, 6), y.view(3, 3), models["b"]
    got = orb.attack_universal(model, groups, labels, threat, clip=clip, preset="paper", steps=12)
    setting = orb.settings.PAPER_UNIVERSAL[threat.name]
    assert setting.start == "zero" and setting.keep == "last"
    for g in range(3):
        if clip == "intersection":
            low, high = (0 - groups[g]).amax(0), (1 - groups[g]).amin(0)
        else:
            low, high = -torch.ones(1, 6, 6).double(), torch.ones(1, 6, 6).double()

        def f(k: int, delta: Tensor, g: int = g) -> Tensor:
            image = groups[g, k] + delta
            return losses.margin(model(image.clamp(0, 1).unsqueeze(0)), labels[g, k].view(1))[0]

        def project(d: Tensor, low: Tensor = low, high: Tensor = high) -> Tensor:
            return orb.project_lp_box(d[None], threat.p, threat.eps, low[None], high[None])[0]

        assert isinstance(setting.rule, orb.ProjectedAscent) and setting.step_size is not None
        delta, w = transcription(
            f, groups[g, 0], project, 3, 12, setting.step_size, setting.rule.beta, setting.rule.gamma
        )
        assert torch.allclose(got.delta[g], delta, atol=1e-6), g
        assert torch.allclose(got.weights[g], w, atol=1e-6)
    assert got.settings["clip"] == clip and got.settings["shared"]


def test_transforms_are_algorithm_1_over_transformations(models, x, y) -> None:
    model = models["c"]
    got = orb.attack_transforms(model, x, y, FLIPS, orb.Linf(0.1), preset="paper", init="zero", steps=12)
    views = list(FLIPS.values())
    for i in range(len(x)):
        delta, w = transcription(
            lambda k, d, i=i: losses.margin(model(views[k]((x[i] + d).unsqueeze(0))), y[i : i + 1])[0],
            x[i],
            lambda d, i=i: orb.project_lp_box(d[None], float("inf"), 0.1, -x[i : i + 1], 1 - x[i : i + 1])[0],
            3, 12, 1 / 2, 1 / 100, 10,
        )  # fmt: skip
        assert torch.allclose(got.delta[i], delta, atol=1e-6)
        assert torch.allclose(got.weights[i], w, atol=1e-6)


@pytest.mark.parametrize("threat", [orb.Linf(0.1), orb.L0(5)], ids=lambda t: t.name)
def test_groups_of_one_under_the_identity_are_the_plain_attack(models, x, y, threat) -> None:
    plain = orb.attack_ensemble(models, x, y, threat, steps=8)
    for clip in ("image", "intersection"):
        group = orb.attack_universal(
            models, x.unsqueeze(1), y.unsqueeze(1), threat, clip=clip, transforms={"id": lambda v: v}, steps=8
        )
        if clip == "intersection":  # the same box; clamping each image leaves the perturbation more room
            assert torch.equal(group.delta, plain.delta) and torch.equal(group.weights, plain.weights)
        assert torch.equal(group.adversarial[:, 0], (x + group.delta).clamp(0, 1))
        assert group.axes == {"models": ("a", "b", "c"), "transforms": ("id",), "examples": ("image_0",)}


@pytest.mark.parametrize("clip", ["image", "intersection"])
@pytest.mark.parametrize("threat", [orb.Linf(0.2), orb.L2(1.0), orb.L1(3.0), orb.L0(6)], ids=lambda t: t.name)
def test_success_and_feasibility_of_a_product_are_as_reported(models, x, y, threat, clip) -> None:
    groups, labels = x.view(3, 3, 1, 6, 6), y.view(3, 3)
    got = orb.attack_product(
        models, groups, labels, threat, transforms=FLIPS, shared=True, clip=clip, steps=15, keep="best"
    )
    assert got.delta.shape == (3, 1, 6, 6) and got.adversarial.shape == groups.shape
    assert threat.around(groups, shared=True, clip=clip).contains(got.delta).all()
    shifted = groups + got.delta.unsqueeze(1)
    assert torch.equal(got.adversarial, shifted.clamp(0, 1))
    if clip == "intersection":
        assert torch.allclose(got.adversarial, shifted, atol=1e-12)
    hits = torch.stack(
        [
            m(t(got.adversarial[:, e])).argmax(1) != labels[:, e]
            for m in models.values()
            for t in FLIPS.values()
            for e in range(3)
        ],
        1,
    )
    assert torch.equal(got.fooled, hits) and torch.equal(got.success, hits.double())
    assert got.asr_gp == got.asr_all == pytest.approx(float(hits.all(1).double().mean()))
    assert got.asr_avg == pytest.approx(float(hits.double().mean()))
    assert got.draws == 1 and len(got.names) == 27 and got.gradient_evaluations == 27 * (15 + 1)


def test_marginals_sum_the_weights_over_the_other_factors(models, x, y) -> None:
    groups, labels = x.view(3, 3, 1, 6, 6), y.view(3, 3)
    got = orb.attack_product(models, groups, labels, orb.Linf(0.1), transforms=FLIPS, shared=True, steps=6)
    w = dict(zip(got.names, got.weights.T, strict=True))
    for axis, members in got.axes.items():
        place = list(got.axes).index(axis)
        for i, member in enumerate(members):
            expected = sum(v for name, v in w.items() if name.split("/")[place] == member)
            assert torch.allclose(got.marginal(axis)[:, i], expected)
    assert torch.allclose(got.marginal("models").sum(1), torch.ones(3).double())
    with pytest.raises(ValueError, match="axis must be one of models, transforms, examples, got 'norms'"):
        got.marginal("norms")


def test_min_max_beats_the_average_on_the_hardest_domain(models, x, y) -> None:
    groups, labels = x.view(3, 3, 1, 6, 6), y.view(3, 3)
    kinds = {"loss": losses.smooth_margin, "steps": 60, "keep": "last", "direction": orb.Sign("linear")}
    average = orb.attack_product(
        models, groups, labels, orb.Linf(0.1), transforms=FLIPS, shared=True, rule=orb.Uniform(), **kinds
    )
    minmax = orb.attack_product(
        models,
        groups,
        labels,
        orb.Linf(0.1),
        transforms=FLIPS,
        shared=True,
        rule=orb.ProjectedAscent(0.2, 0.0),
        **kinds,
    )
    assert bool((minmax.losses.amax(1) < average.losses.amax(1)).all())


class Lucky(ImageTransform):
    """Shows an image that fools, or the one it is given, at the toss of a coin: nothing to be learned, all luck."""

    seeds = 1

    def __init__(self, bait: Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "bait", bait)

    def _change(self, v: Tensor, columns: Columns) -> Tensor:
        heads = (columns.take(1).view(-1, 1, 1, 1) < 0.5).to(v)
        return heads * (self.bait + 0 * v) + (1 - heads) * v


def test_luck_is_not_reported_as_success(models, x, y) -> None:
    model = models["a"]
    bait = x[(y != y[0]).nonzero()[0]]  # an image of another class
    same = x[y == y[0]]
    labels = y[y == y[0]]
    many, labels = same.repeat(40, 1, 1, 1), labels.repeat(40)
    got = orb.attack_transforms(
        model, many, labels, {"lucky": Lucky(bait)}, orb.Linf(1e-6), steps=10, keep="best", draws=20, history="full"
    )
    rows = got.history.rows
    assert rows is not None and rows.fooled is not None
    assert float(rows.fooled.any(0).double().mean()) > 0.99, "some iterate had luck in nearly every row"
    assert float(got.success.mean()) == pytest.approx(0.5, abs=0.03)
    assert got.asr_gp < 0.01 and got.draws == 20
    assert got.asr_avg == pytest.approx(float(got.success.mean())) == pytest.approx(1 - float(got.accuracy[0]))


def test_what_is_best_is_chosen_on_other_draws_than_it_is_judged_on(models, x, y) -> None:
    seen: list[float] = []

    class Noting(Lucky):
        def apply(self, v: Tensor, u: Tensor) -> Tensor:
            seen.append(float(u[0, 0]))
            return super().apply(v, u)

    orb.attack_transforms(models["a"], x, y, {"t": Noting(x[:1])}, orb.Linf(0.1), steps=3, samples=2, draws=4)
    # the check of the arguments draws nothing; 4 evaluations of 2 samples, 4 draws for each of two iterates, 4 to judge
    tail = seen[-(8 + 8 + 4) :]
    attack, first, last, judged = tail[:8], tail[8:12], tail[12:16], tail[16:]
    assert first == last, "iterates are compared on the same draws"
    assert len({*attack, *first, *judged}) == 16, "all others differ"


def test_a_lucky_draw_does_not_end_an_attack(models, x, y) -> None:
    """Stopping early leaves out what fools on many draws, between restarts, and never within a run."""
    transforms, kinds = {"lucky": Lucky(x[:1])}, {"steps": 6, "draws": 4, "keep": "best"}
    full = orb.attack_transforms(models["a"], x, y, transforms, orb.Linf(0.1), **kinds)
    quick = orb.attack_transforms(models["a"], x, y, transforms, orb.Linf(0.1), stop_when_fooled=True, **kinds)
    assert torch.equal(full.delta, quick.delta) and torch.equal(full.success, quick.success)


def test_labels_may_broadcast_over_problems_in_batches_too(models, x) -> None:
    groups = x.view(3, 3, 1, 6, 6)
    labels = torch.tensor([1, 2, 3]).view(1, 1, 1, 3)
    whole = orb.attack_universal(models, groups, labels, orb.Linf(0.1), steps=4)
    parts = orb.attack_universal(models, groups, labels, orb.Linf(0.1), steps=4, batch_size=1)
    assert torch.allclose(whole.delta, parts.delta, atol=1e-12)


class Drawer(dict):
    """A store in memory that counts what is asked of it."""

    def put(self, index: int, result: orb.AttackResult) -> None:
        self[index] = result


def test_a_store_of_another_attack_is_not_taken(models, x, y) -> None:
    drawer = Drawer()
    orb.attack_ensemble(models, x, y, orb.Linf(0.1), steps=2, batch_size=4, store=drawer)
    kept = drawer[0].delta
    again = orb.attack_ensemble(models, x, y, orb.Linf(0.1), steps=2, batch_size=4, store=drawer)
    assert drawer[0].delta is kept and torch.equal(again.delta[:4], kept)
    other = orb.attack_ensemble(models, x, y, orb.Linf(0.3), steps=2, batch_size=6, store=drawer)
    plain = orb.attack_ensemble(models, x, y, orb.Linf(0.3), steps=2, batch_size=6)
    assert torch.equal(other.delta, plain.delta) and len(other.delta) == 9


def test_settings_are_those_of_all_batches(models, x, y) -> None:
    eps = torch.linspace(0.1, 0.2, 9, dtype=torch.float64)
    got = orb.attack_ensemble(models, x, y, orb.Linf(eps), steps=1, batch_size=2)
    assert got.settings["eps"] == eps.tolist()


@pytest.mark.processors
def test_results_do_not_depend_on_batches(models, x, y, rounding) -> None:
    models = {name: rounding(model) for name, model in models.items()}
    kinds = {"steps": 6, "samples": 2, "draws": 3, "init": "normal", "restarts": 2}
    transforms = {"lucky": Lucky(x[:1]), "as is": lambda v: v}
    whole = orb.attack_transforms(models, x, y, transforms, orb.Linf(0.1), **kinds)
    parts = orb.attack_transforms(models, x, y, transforms, orb.Linf(0.1), batch_size=2, **kinds)
    assert torch.allclose(whole.delta, parts.delta, atol=1e-9)
    assert torch.equal(whole.success, parts.success)
    again = orb.attack_transforms(models, x, y, transforms, orb.Linf(0.1), **kinds)
    assert torch.equal(whole.delta, again.delta)
    other = orb.attack_transforms(models, x, y, transforms, orb.Linf(0.1), seed=1, **kinds)
    assert not torch.equal(whole.delta, other.delta)


@pytest.mark.processors
def test_groups_do_not_depend_on_batches_and_may_have_their_own_radius(models, x, y, rounding) -> None:
    models = {name: rounding(model) for name, model in models.items()}
    groups, labels = x.view(3, 3, 1, 6, 6), y.view(3, 3)
    threat = orb.Linf(torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64))
    whole = orb.attack_universal(models["a"], groups, labels, threat, steps=6, init="normal")
    parts = orb.attack_universal(models["a"], groups, labels, threat, steps=6, init="normal", batch_size=1)
    assert torch.allclose(whole.delta, parts.delta, atol=1e-9)
    assert whole.delta[0].abs().max() == 0 and 0.1 < whole.delta[2].abs().max() <= 0.3


def test_a_patch_stays_in_its_place(models, x, y) -> None:
    groups, labels = x.view(3, 3, 1, 6, 6), y.view(3, 3)
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[:, 1:4, 2:5] = True
    got = orb.attack_universal(models, groups, labels, orb.Linf(1.0, mask=mask), transforms=FLIPS, steps=10)
    changed = (got.adversarial != groups).any(0).any(0)
    assert not changed[~mask].any() and changed[mask].any()


def test_presets_say_how_images_are_clipped(models, x, y) -> None:
    groups, labels = x.view(3, 3, 1, 6, 6), y.view(3, 3)
    shown = {
        preset: orb.attack_universal(models["a"], groups, labels, orb.Linf(0.1), preset=preset, steps=1).settings
        for preset in (None, "paper")
    }
    assert shown[None]["clip"] == "image" and shown["paper"]["clip"] == "intersection"
    assert shown["paper"]["step_size"] == pytest.approx(1 / 6)
    assert shown["paper"]["rule"] == repr(orb.ProjectedAscent(1 / 50, 4))
    plain = orb.attack_ensemble(models, x, y, orb.Linf(0.1), steps=1).settings
    assert plain["clip"] is None and plain["transforms"] is None and not plain["shared"]


def test_forwards_of_a_universal_attack_are_counted(models, x, y) -> None:
    groups, labels, model = x.view(3, 3, 1, 6, 6), y.view(3, 3), models["a"]
    before = model.calls
    orb.attack_universal(model, groups, labels, orb.Linf(0.1), steps=7)
    assert (
        model.calls - before == 4 + 1 + 7 + 1 + 1
    )  # to probe, for the reach, T + 1, and once to judge what is returned


@pytest.mark.processors
def test_stopping_early_changes_no_success(models, x, y, rounding) -> None:
    models = {name: rounding(model) for name, model in models.items()}
    groups, labels = x.view(3, 3, 1, 6, 6), y.view(3, 3)
    kinds = {"transforms": FLIPS, "shared": True, "steps": 20}
    full = orb.attack_product(models, groups, labels, orb.Linf(0.4), **kinds)
    quick = orb.attack_product(models, groups, labels, orb.Linf(0.4), stop_when_fooled=True, **kinds)
    assert torch.equal(full.fooled.all(1), quick.fooled.all(1))


def test_recipes_share_their_options() -> None:
    def names(function) -> set[str]:
        return set(inspect.signature(function).parameters)

    common = names(orb.attack_ensemble) - {"models"}
    for function in (orb.attack_universal, orb.attack_transforms, orb.attack_product):
        assert common <= names(function)
        for option, parameter in inspect.signature(orb.attack_ensemble).parameters.items():
            if option in common:
                assert inspect.signature(function).parameters[option].default == parameter.default, option


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": "both"}, "clip must be 'image' or 'intersection', got 'both'"),
        ({"draws": 0}, "draws must be a whole number >= 1 or None, got 0"),
        ({"init": torch.zeros(3, 3, 1, 6, 6)}, r"init must have shape \(3, 1, 6, 6\), got \(3, 3, 1, 6, 6\)"),
        ({"transforms": {"cut": lambda v: v.detach()}}, "'cut'"),
        ({"transforms": {"round": lambda v: v.round()}}, "under transformation 'round' has zero input gradient"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"steps": True}, "steps must be a whole number >= 0, got True"),
        ({"memory": -1}, "memory must be a whole number of bytes"),
    ],
)
def test_what_the_recipes_refuse(models, x, y, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        orb.attack_universal(models["a"], x.view(3, 3, 1, 6, 6), y.view(3, 3), orb.Linf(0.1), **({"steps": 2} | change))


def test_nan_is_blamed_on_the_input_and_not_on_what_sees_it(models, x, y) -> None:
    bad = x.clone()
    bad[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="x must be finite, got NaN or infinity"):
        orb.attack_transforms(models["a"], bad, y, FLIPS, orb.Linf(0.1))


def test_x_of_a_universal_attack_has_groups(models, x, y) -> None:
    with pytest.raises(ValueError, match=r"y must have shape \(9, 1\), got \(9,\)"):
        orb.attack_universal(models["a"], x, y, orb.Linf(0.1))


def test_images_of_two_sizes_cannot_go_through_a_model_together():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 3)).eval()
    x, y = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    halved = {"as is": lambda x: x, "halved": lambda x: x[..., ::2, ::2]}
    with pytest.raises(ValueError, match=r"transforms must give images of one size.*'halved': \(1, 4, 4\)"):
        orb.attack_transforms(model, x, y, halved, orb.Linf(0.1), steps=2)
    alone = orb.attack_transforms(model, x, y, {"halved": halved["halved"]}, orb.Linf(0.1), steps=2)
    assert alone.fooled.shape == (3, 1)


def test_fixed_weights_of_other_problems_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    x, y = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match="w of Fixed must have a row for each of 3 problems, got 5"):
        orb.attack_ensemble([model, model], x, y, orb.Linf(0.1), steps=2, rule=orb.Fixed(torch.full((5, 2), 0.5)))
