"""Opens a job: starts a new one, or finds an existing one and updates its plan.

A damaged plan is made again: from the source if that has not changed, else from the files of the
finished shards.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vlv.checkpoints.adapters import captioner_hash, former_captioner_hash
from vlv.checkpoints.hub import resolve
from vlv.data.folder import caption_file
from vlv.data.folder_metadata import METADATA, hidden_by_metadata, metadata_below
from vlv.data.remote.locations import shown_name, url_of
from vlv.errors import ConfigError, DatasetError
from vlv.files import atomic_file, exclusive_lock, sha256_of, write_text
from vlv.inference.bulk.image_names import KEPT, SHARED
from vlv.inference.bulk.job import BESIDE, FOLDER, RECORD, SCRATCH, Job
from vlv.inference.bulk.layout import Kind, Layout, load_dataset
from vlv.inference.bulk.output import is_whole, mark_of, records
from vlv.inference.bulk.plan import FREED_NAMES, GONE_NAMES, NAMES, PLAN, extend_plan, write_plan
from vlv.inference.caption_files import Sidecars, holds_text
from vlv.inference.caption_lists.metadata import captions_of_line
from vlv.inference.written import FolderRecords, Replace, may_replace
from vlv.text import read_json

_VERSION = 2


@contextmanager
def opened(job: Job, replacing: Replace, warn: Callable[[str], None]) -> Iterator[None]:
    """Write the plan of a new job, or update the plan on disk from the source. Nobody else can open
    the job inside the block.

    Args:
        job: the job.
        replacing: which captions that were in the target before may be replaced.
        warn: called with a sentence about each damage that is repaired.

    Raises:
        ConfigError: the target holds another job or other files, or another run of the job works.
        CheckpointError: there is no such model.
        DatasetError: the source holds nothing readable, or the job's record is damaged.
    """
    kind = job.kind
    begun = (job.folder / RECORD).exists()
    if not begun:
        _check_target(job, kind, replacing)
    job.folder.mkdir(parents=True, exist_ok=True)
    busy = ConfigError(f"another run of the job in {job.target} is at work; wait until it ends")
    with exclusive_lock(job.folder / "lock", busy):
        scratch = job.folder / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        _bring_up_to_date(job, _layout(job, kind, replacing), begun, warn)
        yield
        shutil.rmtree(scratch)


def _check_target(job: Job, kind: Kind, replacing: Replace) -> None:
    target = job.target
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is no folder; name one for the results")
    if job.output_format in BESIDE and kind == "folder":
        if job.output_format == "jsonl" and replacing is Replace.NONE:
            _check_metadata(target)
    elif target.is_dir() and any(path.name != FOLDER for path in target.iterdir()):
        raise ConfigError(f"{target} holds other files already; name a new folder for the results")


def _check_metadata(target: Path) -> None:
    """Raise ConfigError if a new metadata.jsonl would replace captions, or go before them."""
    taken = target / METADATA
    if taken.exists():
        raise ConfigError(f"{taken} exists already; --overwrite replaces it")
    below = (
        path
        for path, entries in metadata_below(target)
        if any(map(captions_of_line, entries.values()))
    )
    other = hidden_by_metadata(target) or next(below, None)
    if other is not None:
        raise ConfigError(
            f"the captions in {other} would not be read beside {taken}; name another folder for "
            "the results, or --overwrite writes it all the same"
        )


def _bring_up_to_date(job: Job, layout: Layout, begun: bool, warn: Callable[[str], None]) -> None:
    """Write the plan of a new job, or check that it is the same job and add new images."""
    plan = job.folder / SCRATCH / "plan"
    plan.mkdir()
    model = resolve(job.model, job.revision)
    about: dict[str, Any] = {
        "version": _VERSION,
        "settings": job.settings(),
        # A folder may hold another model by now, such as one that was trained on.
        "weights": captioner_hash(model),
    }
    if layout.kind == "datasets":
        about["fingerprint"] = str(load_dataset(job.source)._fingerprint)
    if not begun:
        write_plan(layout, plan)
    else:
        before = _read_record(job)
        _check_same(job, model, before, about)
        hashes = before.get("plan")
        if _hashes(job.folder) == hashes:
            for file in _plan_files(job.folder):
                shutil.copyfile(file, plan / file.name)
        else:
            warn(
                f"the plan of the job in {job.target} is damaged; it is made again from the source"
            )
            write_plan(layout, plan)
            if _hashes(plan) != hashes:
                _restore_plan(job, layout.kind, plan)
        extend_plan(layout, plan)
    about["plan"] = _hashes(plan)
    for file in [*_plan_files(plan), *plan.glob(GONE_NAMES), *plan.glob(FREED_NAMES)]:
        with atomic_file(job.folder / file.name) as unfinished:
            file.rename(unfinished)
    write_text(job.folder / RECORD, json.dumps(about, indent=1) + "\n")


def _plan_files(folder: Path) -> list[Path]:
    return [path for path in (folder / NAMES, folder / PLAN) if path.exists()]


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in _plan_files(folder)}


def _restore_plan(job: Job, kind: Kind, plan: Path) -> None:
    """Write a plan of only the finished shards, from their files."""
    names = plan / NAMES if kind == "folder" else None
    with open(plan / PLAN, "w", encoding="ascii") as lines:
        if names:
            names.write_bytes(b"")
        for path in sorted(job.folder.glob("[0-9]*.json")):
            mark = mark_of(job, int(path.stem)) if path.stem.isdecimal() else None
            if mark is None or not is_whole(job, mark):
                continue
            shard = mark.shard
            if names:
                with names.open("ab") as file:
                    shard = replace(shard, first=file.tell())
                    for record in records(job, shard):
                        entry = [record["file_name"]]
                        if record["status"] in (KEPT, SHARED):
                            entry += [record["status"], record["message"]]
                        file.write(json.dumps(entry).encode("ascii") + b"\n")
            lines.write(json.dumps(asdict(shard)) + "\n")


def _layout(job: Job, kind: Kind, replacing: Replace) -> Layout:
    known = FolderRecords()

    def is_kept(path: Path) -> bool:
        there = caption_file(path, job.caption_extension)
        return not may_replace(there, replacing, known.of(path.parent))

    return Layout(
        job.source,
        kind,
        job.shard_size,
        leave_out=job.target,
        caption_of=_caption_of(job) if kind == "folder" else None,
        # Only the results of `folder` hold an image that is gone, and its caption with it.
        **({"is_kept": is_kept} if job.output_format == "txt" else {"outlives": holds_text}),
    )


def _caption_of(job: Job) -> Callable[[str], Path] | None:
    if not job.has_caption_files:
        return None
    sidecars = Sidecars(job.caption_extension)
    return lambda name: sidecars.path(job.target / name)


def _read_record(job: Job) -> dict[str, Any]:
    path = job.folder / RECORD
    about = read_json(path, DatasetError) if path.is_file() else None
    if not isinstance(about, dict) or not isinstance(about.get("settings"), dict):
        raise DatasetError(
            f"{path} is damaged, and with it the settings of the job; remove the folder "
            f"{job.folder} to begin again"
        )
    return about


def _check_same(job: Job, model: Path, before: dict[str, Any], record: dict[str, Any]) -> None:
    if before.get("version") != _VERSION:
        raise ConfigError(f"{job.target} holds a job of another version of vlv; name a new folder")
    old, new = before["settings"], record["settings"]
    differences = [
        f"{name} {_shown(new.get(name))} instead of {_shown(old.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if not differences and before.get("fingerprint") != record.get("fingerprint"):
        raise ConfigError(
            f"{job.target} holds a job on another dataset than {job.source} is now; name a new "
            "folder for the results"
        )
    # Jobs that were begun before this was recorded, or recorded in full, go on.
    weights = before.get("weights", record["weights"])
    if not differences and weights not in (record["weights"], former_captioner_hash(model)):
        differences = [f"{job.model} has other weights than when the job was begun"]
    if differences:
        again = f", or remove {job.folder} to begin again here" if not job.images_needed else ""
        raise ConfigError(
            f"{job.target} holds the results of another job; here {', '.join(differences)}. "
            f"Give the same settings to go on with that job, or name a new folder{again}"
        )


def _shown(value: Any) -> str:
    """A setting for a message; a URL without what may be a key."""
    return repr(shown_name(value) if isinstance(value, str) and url_of(value) else value)
