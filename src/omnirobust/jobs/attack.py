"""The main job: attack by the average and by min-max, check what was saved, compare the two."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omnirobust._files import from_home
from omnirobust.attacks.options import AttackOptions
from omnirobust.attacks.recipes import attack_product
from omnirobust.attacks.results import AttackResult
from omnirobust.core.ranges import digest
from omnirobust.core.types import WeightRule
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.frame import JobProgress, default_folder, run_job
from omnirobust.jobs.job import AttackJob
from omnirobust.jobs.names import describe_code, describe_models, named_code, told_rule
from omnirobust.jobs.records import AttackRecord
from omnirobust.jobs.setting import Setting, load_setting
from omnirobust.jobs.shards import OneBatch, Share, share_out
from omnirobust.jobs.summary import write_results
from omnirobust.jobs.transforms import describe_transforms
from omnirobust.training.workers import Alone, Workers
from omnirobust.zoo.chunks import fingerprint
from omnirobust.zoo.data import ImageData
from omnirobust.zoo.tables import is_table

_ELSEWHERE = ("rule", "targeted", "mask", "shared", "clip", "transforms", "samples", "draws", "accuracy_of")


def run_attack(
    job: AttackJob,
    out: str | Path | None = None,
    progress: JobProgress | None = None,
    options: str | None = None,
    team: Workers | None = None,
) -> AttackRecord:
    """Attack, write everything into a run folder, and return its record.

    The average is run with otherwise equal settings, so that the two are compared pair by pair. Called again with the
    same settings the job goes on where it was interrupted, and ends with the same files.

    Args:
        job: the settings.
        out: the run folder; None for a folder under ``runs/`` named after the settings.
        progress: called after every step.
        options: the text of a file that gives these settings on the command line, kept in the run folder.
        team: processes that call this at the same time and share the batches; None for this one alone.

    Raises:
        ValueError: if a setting, a model, a transformation or the data does not fit.
        FileNotFoundError: if models of the zoo have not been trained.
    """
    team = Alone() if team is None else team
    setting = load_setting(job)
    job, config = setting.job, describe_job(setting)  # what models that only answer leave open is chosen by now

    def together(folder: RunFolder) -> None:
        if team.count > 1:
            share_out(_shares(setting, folder, team, progress), team)

    def conclude(folder: RunFolder, _: None) -> None:
        results = {name: _attack(setting, rule, folder, name, progress) for name, rule in job.rules().items()}
        write_results(folder, setting, results, None if progress is None else partial(progress, "check"))

    return run_job(
        out if out is not None else default_folder(config, *_words(config)), config, options, team, progress,
        together=together, conclude=conclude, record=AttackRecord.open,
    )  # fmt: skip


def _shares(setting: Setting, folder: RunFolder, team: Workers, progress: JobProgress | None) -> list[Share]:
    """Return all batches of all attacks, one share each; those of this process tell how far it is with its own."""
    rules, size = setting.job.rules(), setting.job.batch_size
    units = [(name, batch) for name in rules for batch in range(-(-len(setting.x) // size))]
    own = units[team.rank :: team.count]

    def share(name: str, batch: int) -> None:
        def tell(_: str, done: int, total: int) -> None:
            if progress is not None:
                progress("this process", own.index((name, batch)) * total + done, len(own) * total)

        _attack(setting, rules[name], folder, name, tell, batch)

    return [partial(share, *unit) for unit in units]


def _words(config: Mapping[str, Any]) -> list[str]:
    """Return what the name of its folder says of an attack."""
    task, attack = config["job"].removeprefix("attack "), config["attack"]
    return [*([] if task == "ensemble" else [task]), attack["norm"], f"{attack['eps']:g}"]


def describe_job(setting: Setting) -> dict[str, Any]:
    """Return the resolved settings as plain values; data and weights by their fingerprints."""
    job, images = setting.job, setting.images
    return {
        "job": f"attack {job.plan.task}",
        "data": describe_data(images, job.start, job.label, job.resize),
        "models": describe_models(setting.models),
        "transfer": describe_models(setting.others),
        **describe_code([*map(named_code, (*job.models, *job.transfer)), *(job.transforms or ()), job.own_rule]),
        "labels": job.labels,
        "target": job.target,
        "rules": {name: told_rule(rule) for name, rule in job.rules().items()},
        **({} if job.queries is None else {"queries": job.queries}),
        **_describe_domains(setting),
        "attack": _describe_attack(job),
    }


def describe_data(
    images: ImageData, start: int, label: str | None = None, resize: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Return what images these are, the first of them number ``start`` of its split, as plain values.

    How they were chosen, the column of their classes and their new size are there only where they are not as usual.
    """
    unusual = {"choice": images.choice, "label": label, "resize": None if resize is None else list(resize)}
    return {
        "name": _own_name(images.name.replace("{split}", images.split) if is_table(images.name) else images.name),
        "split": images.split,
        "start": start,
        "images": len(images),
        "note": images.note,
        "fingerprint": fingerprint({"x": images.x, "y": images.y}),
        **{name: value for name, value in unusual.items() if value},
    }


def _own_name(name: str) -> str:
    """Return the name of a set; of a folder its own name, wherever it lies: what it holds is told by a fingerprint."""
    path = from_home(name)
    if is_table(name):
        return path.name
    return path.resolve().name if not name.startswith("hub:") and path.is_dir() else name


def _describe_domains(setting: Setting) -> dict[str, Any]:
    """Return what is not there in an attack on models alone."""
    job = setting.job
    parts: dict[str, Any] = {}
    if job.groups is not None:
        parts["groups"] = {
            "size": job.groups.size,
            "by": job.groups.by,
            "seed": job.groups.seed,
            "count": len(setting.images) // setting.E,
            "left_out": setting.left_out,
            "clip": job.plan.clip,
        }
    if setting.transforms is not None:
        parts["transforms"] = describe_transforms(setting.transforms)
    drawn = {"samples": job.options.get("samples", 1), "draws": job.options.get("draws")}
    said = setting.transforms is not None or drawn != {"samples": 1, "draws": None}
    return parts | drawn if said else parts


def _describe_attack(job: AttackJob) -> dict[str, Any]:
    """Return what the plan says, less what stands elsewhere in the record of a job."""
    plan = {key: value for key, value in job.plan.describe().items() if key not in _ELSEWHERE}
    mask = job.threat_model.mask
    plan |= {} if mask is None else {"mask": int(mask.sum()), "mask_digest": digest(mask)}
    return plan | {"preset": job.plan.options["preset"] or "default", "batch_size": job.batch_size}


def _attack(
    setting: Setting,
    rule: WeightRule,
    folder: RunFolder,
    name: str,
    progress: JobProgress | None,
    batch: int | None = None,
) -> AttackResult:
    """Attack all, those batches that the folder has not got; or one ``batch`` alone, with the very same result."""
    job = setting.job
    begin = 0 if batch is None else batch * job.batch_size
    rows = slice(begin, None if batch is None else begin + job.batch_size)
    store = folder.store(name)
    options: AttackOptions = {
        **job.options,
        "rule": rule,
        "targeted": setting.targeted,
        "true_labels": None if setting.true_labels is None else setting.true_labels[rows].to(setting.device),
        "batch_size": job.batch_size,
        "progress": False if progress is None else lambda done, total: progress(name, done, total),
        "history": "full",
        "first_row": (0 if setting.shared else job.start) + begin,
        "store": store if batch is None else OneBatch(store, batch),
    }
    return attack_product(
        setting.models,
        setting.x[rows].to(setting.device),
        setting.y[rows].to(setting.device),
        job.threat_model.select(rows, setting.x.ndim - 1 - setting.shared),
        transforms=setting.transforms,
        shared=setting.shared,
        clip=job.clip,
        **options,
    ).to("cpu")
