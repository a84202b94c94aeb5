from pathlib import Path

import pytest

import omnirobust as orb
from omnirobust.jobs import AttackJob, AttackRecord, Grouping, run_attack


@pytest.fixture(scope="session")
def product(digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> AttackRecord:
    """Groups of four images, two models, three transformations of which one is random."""
    job = AttackJob(
        "digits",
        ("a", "c"),
        orb.Linf(0.25),
        images=30,
        start=2,
        groups=Grouping(4, seed=1),
        transforms=("ori", "flh", "noise:0.1"),
        options={"steps": 4, "samples": 2, "draws": 3},
    )
    return _run(job, digits_cache, tmp_path_factory)


@pytest.fixture(scope="session")
def by_class(digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> AttackRecord:
    """Groups of three images of one class, one model."""
    job = AttackJob("digits", ("a",), orb.L2(0.8), images=60, groups=Grouping(3, "class"), options={"steps": 5})
    return _run(job, digits_cache, tmp_path_factory)


@pytest.fixture(scope="session")
def transformed(digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> AttackRecord:
    """Single images under three transformations, one of the user's own."""
    own = tmp_path_factory.mktemp("own") / "own.py"
    own.write_text("def dim(x):\n    return 0.8 * x\n")
    job = AttackJob(
        "digits",
        ("a", "c"),
        orb.Linf(0.2),
        images=20,
        start=5,
        transforms=("flh", "rot:-30..30", f"{own}:dim"),
        options={"steps": 4, "draws": 4},
    )
    return _run(job, digits_cache, tmp_path_factory)


def _run(job: AttackJob, cache: Path, folders: pytest.TempPathFactory) -> AttackRecord:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNIROBUST_CACHE", str(cache))
        return run_attack(job, folders.mktemp("runs") / "run")
