"""What accuracy is counted against where an attack's labels are not the truth, and what was won before the attack."""

import pytest
import torch

import omnirobust as orb
from omnirobust.attacks.store import ResultStore

STEPS = 8


def after(models, inputs):
    return torch.stack([model(inputs).argmax(1) for model in models.values()], 1)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_accuracy_of_a_targeted_attack_is_no_target_success(models, x, y, batch_size) -> None:
    goal = torch.full_like(y, 2)
    result = orb.attack_ensemble(
        models, x, goal, orb.Linf(0.2), steps=STEPS, targeted=True, true_labels=y, batch_size=batch_size
    )
    said = after(models, result.adversarial)
    torch.testing.assert_close(result.accuracy, (said == y[:, None]).to(result.accuracy).mean(0))
    assert result.settings["accuracy_of"] == "true labels"
    assert "targeted" in repr(result)


def test_without_true_labels_it_counts_what_each_model_said_before(models, x, y) -> None:
    before = after(models, x)
    goal = (y + 1) % 4
    result = orb.attack_ensemble(models, x, goal, orb.Linf(0.2), steps=STEPS, targeted=True)
    kept = after(models, result.adversarial) == before
    torch.testing.assert_close(result.accuracy, kept.to(result.accuracy).mean(0))
    assert result.settings["accuracy_of"] == "clean predictions"
    assert [note for note in result.notes if "true_labels" in note]
    assert result.already is not None and torch.equal(result.already, before == goal[:, None])


def test_what_is_in_the_target_class_already_is_counted_apart(models, x, y) -> None:
    """Radius 0 moves nothing: whatever is in the class was there before, and no attack has won it."""
    goal = torch.full_like(y, int(after(models, x)[0, 0]))
    result = orb.attack_ensemble(models, x, goal, orb.Linf(0.0), steps=1, targeted=True, true_labels=y)
    assert bool(result.fooled[0, 0])
    assert result.asr_all == result.asr_avg == 0.0
    assert bool((result.success_rate.nan_to_num() == 0).all())


def test_rates_are_over_what_is_left_to_win(models, x, y) -> None:
    goal = torch.full_like(y, 1)
    result = orb.attack_ensemble(models, x, goal, orb.Linf(0.3), steps=STEPS, targeted=True, true_labels=y)
    already = (after(models, x) == 1) | (y == 1)[:, None]
    reached = after(models, result.adversarial) == 1
    assert torch.equal(result.counted, ~already)
    rows = [row for row in range(len(x)) if not bool(already[row].all())]
    assert 0 < len(rows) < len(x)
    assert result.asr_all == pytest.approx(sum(bool(reached[row].all()) for row in rows) / len(rows))
    assert result.asr_avg == pytest.approx(float(reached[~already].double().mean()))
    for k in range(len(models)):
        left = ~already[:, k]
        assert float(result.success_rate[k]) == pytest.approx(float(reached[left, k].double().mean()))


def test_predictions_as_labels_leave_accuracy_to_the_true_ones(models, x, y) -> None:
    own = after(models, x)
    result = orb.attack_ensemble(models, x, own, orb.Linf(0.1), steps=STEPS, true_labels=y)
    said = after(models, result.adversarial)
    torch.testing.assert_close(result.accuracy, (said == y[:, None]).to(result.accuracy).mean(0))
    torch.testing.assert_close(1 - result.success_rate, (said == own).to(result.accuracy).mean(0))
    plain = orb.attack_ensemble(models, x, own, orb.Linf(0.1), steps=STEPS)
    assert torch.equal(plain.delta, result.delta)
    torch.testing.assert_close(plain.accuracy, 1 - plain.success_rate)


def test_a_targeted_group_under_transformations_counts_every_domain(models, x, y) -> None:
    groups, labels = x[:8].unflatten(0, (4, 2)), y[:8].unflatten(0, (4, 2))
    flips = {"as it is": lambda images: images, "flipped": lambda images: images.flip(-1)}
    result = orb.attack_product(
        models, groups, torch.full_like(labels, 3), orb.Linf(0.2), transforms=flips, shared=True, steps=3,
        targeted=True, true_labels=labels,
    )  # fmt: skip
    assert result.already is not None
    for k, (model, flip, e) in enumerate((m, f, e) for m in models.values() for f in flips.values() for e in (0, 1)):
        right = model(flip(result.adversarial[:, e])).argmax(1) == labels[:, e]
        assert float(result.accuracy[k]) == pytest.approx(float(right.double().mean()))
        there = (model(groups[:, e]).argmax(1) == 3) | (labels[:, e] == 3)
        assert torch.equal(result.already[:, k], there)


def test_stored_batches_keep_what_they_were_judged_against(models, x, y, tmp_path) -> None:
    def attack(**others):
        return orb.attack_ensemble(
            models, x, (y + 1) % 4, orb.Linf(0.2), steps=3, targeted=True, batch_size=4, store=ResultStore(tmp_path),
            **others,
        )  # fmt: skip

    first, again = attack(), attack()
    assert torch.equal(first.accuracy, again.accuracy)
    assert first.already is not None and again.already is not None and torch.equal(first.already, again.already)
    said = after(models, first.adversarial)
    torch.testing.assert_close(attack(true_labels=y).accuracy, (said == y[:, None]).to(first.accuracy).mean(0))


def test_true_labels_that_do_not_fit_are_named(models, x, y) -> None:
    with pytest.raises(ValueError, match=r"true_labels must have shape \(9,\)"):
        orb.attack_ensemble(models, x, y, orb.Linf(0.1), true_labels=y[:3])
    with pytest.raises(ValueError, match="true_labels must be an int64 tensor"):
        orb.attack_ensemble(models, x, y, orb.Linf(0.1), true_labels=y.float())
