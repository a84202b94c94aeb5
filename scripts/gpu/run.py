"""Train the large models and measure the paper's tables at full scale on a GPU, in commands of under ten minutes.

    python scripts/gpu/run.py pack --data runs/gpu/data             where the data is, once
    python scripts/gpu/run.py go --data runs/gpu/data --out runs/gpu --limit 540

``go`` takes the steps in order, the most informative first. At its time limit it stops, keeps what it has (an epoch of
a training, a chunk of images of a table), and exits with code 75: call it again, until it exits with 0. Everything
small enough to be brought home lies in OUT/results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pack import pack, unpack

UNFINISHED = 75
"""Exit code of a call whose time was up."""

TABLES = ("table-a2", "table-1b", "table-2", "table-3", "table-a3", "table-a5", "table-a6")
"""Tables that the deep models belong to, first."""


class TimeIsUp(KeyboardInterrupt):
    """The limit of this call has come; whatever runs ends as it would if it were interrupted."""


@dataclass(frozen=True)
class Step:
    """One thing to do, to its end or to the limit.

    Attributes:
        name: what the log calls it.
        run: does it; called again, it goes on.
    """

    name: str
    run: Callable[[], object]


def steps(out: Path, device: str, budget: str, only: Sequence[str]) -> list[Step]:
    """Return all steps, the most informative first; those whose name begins with one of ``only``, if any are given."""
    from omnirobust import zoo

    names = sorted((n for n in zoo.RECIPES if n.startswith("cifar10/")), key=lambda n: (n[-1] < "e", n))
    every = [Step(f"train {name}", partial(train, name, device)) for name in names]
    every += [Step(f"reproduce {name}", partial(measure, [name], out, device, budget)) for name in TABLES]
    every.append(Step("speed", partial(speed, out, device)))
    every += [Step(f"reproduce {n}", partial(measure, [n], out, device, budget)) for n in _others()]
    every.append(Step("page", partial(measure, [], out, device, budget, False)))
    return [step for step in every if not only or step.name.startswith(tuple(only))]


def _others() -> list[str]:
    """Return the other experiments: attacks first, then those on robust training, which take longest."""
    from omnirobust.paper.architectures import NAME
    from omnirobust.paper.registry import collection

    return [name for name in collection().members if name not in (*TABLES, NAME)]


def train(name: str, device: str) -> None:
    """Train one model by the fast recipe, unless it is there."""
    from omnirobust import zoo

    if name in zoo.names() and zoo.card(name).finished:
        return

    def told(epoch: int, epochs: int, row: Mapping[str, float]) -> None:
        say(f"{name}: epoch {epoch} of {epochs}, loss {row['loss']:.4f}")

    zoo.train(name, recipe="fast", device=device, progress=told)


def measure(names: Sequence[str], out: Path, device: str, budget: str, anew: bool = True) -> None:
    """Measure experiments, those of their rows whose models are trained; all share their cells."""
    from omnirobust.paper.registry import collection
    from omnirobust.study.runner import reproduce

    reproduce(names, experiments=collection(), budget=budget, out=out / "reproduction", device=device, measure=anew)


def speed(out: Path, device: str) -> None:
    """Measure speed, unless that was done."""
    from speed import measure as measure_speed

    from omnirobust._device import resolved

    if not (file := out / "speed.md").is_file():
        measure_speed(file.with_name("speed-partial.md"), resolved(device))
        file.with_name("speed-partial.md").replace(file)


def go(todo: Sequence[Step], out: Path, limit: float) -> int:
    """Take the steps that are not done yet until ``limit`` seconds have passed; return the exit code."""
    done = _done(out)
    try:
        with time_limit(limit):
            for step in todo:
                if step.name in done:
                    continue
                began = time.monotonic()
                say(f"{step.name} ...")
                failure = _taken(step)
                took = round(time.monotonic() - began, 1)
                done[step.name] = {"seconds": took} | ({"failed": failure} if failure else {})
                _keep(out, done)
    except TimeIsUp:
        say("Time is up: the same command goes on.")
        return UNFINISHED
    finally:
        collect(out)
    return 0


def _taken(step: Step) -> str:
    """Take a step and return why it failed; empty if it did not. What comes after it is tried all the same."""
    try:
        step.run()
    except (ValueError, RuntimeError, OSError) as error:
        say(f"{step.name} failed: {error}")
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeIsUp inside once ``seconds`` have passed."""

    def stop(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def collect(out: Path) -> None:
    """Gather what is small into OUT/results: few files, whatever was measured so far."""
    results = out / "results"
    results.mkdir(parents=True, exist_ok=True)
    made = out / "reproduction"
    for file in (made / "reproduction.md", made / "report.html", out / "speed.md", out / "done.json"):
        if file.is_file():
            shutil.copyfile(file, results / file.name)
    tables = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(made.glob("*.json"))}
    cards = {
        "/".join(file.parts[-3:-1]): json.loads(file.read_text(encoding="utf-8"))
        for file in sorted((out / "cache" / "zoo").glob("*/*/card.json"))
    }
    for name, content in (("tables", tables), ("cards", cards)):
        (results / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _done(out: Path) -> dict[str, dict[str, object]]:
    file = out / "done.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _keep(out: Path, done: dict[str, dict[str, object]]) -> None:
    from omnirobust._files import replacing

    with replacing(out / "done.json") as partial_file:
        partial_file.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")


def say(line: str) -> None:
    """Write a line of the log, with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "go", "list"))
    parser.add_argument("--data", type=Path, default=Path("runs/gpu/data"), help="folder of the packed data")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--limit", type=float, default=540, help="seconds after which a call stops")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", default="paper", help="of the tables: smoke, quick or paper")
    parser.add_argument("--only", nargs="+", default=(), help="beginnings of the names of steps")
    given = parser.parse_args(argv)
    if given.what == "pack":
        size = pack(Path(os.environ["OMNIROBUST_DATA"]), given.data)
        say(f"{size / 2**20:.1f} MiB in {given.data}")
        return 0
    out = given.out.resolve()
    os.environ["OMNIROBUST_CACHE"] = str(out / "cache")
    if given.what == "go":
        os.environ["OMNIROBUST_DATA"] = str(out / "unpacked")
        unpack(given.data, out / "unpacked")
    todo = steps(out, given.device, given.budget, given.only)
    if given.what == "list":
        for step in todo:
            say(step.name)
        return 0
    from omnirobust._device import make_exact, resolved

    make_exact(resolved(given.device))
    return go(todo, out, given.limit)


if __name__ == "__main__":
    sys.exit(main())
