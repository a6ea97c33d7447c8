"""vlv.json, and a model folder that is put in place at once. Knows no network."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from vlv.checkpoints.components import read_settings
from vlv.checkpoints.parts import CARD_FILE, CONFIG_FILE, GENERATION_FILE, MANIFEST_FILE
from vlv.errors import ConfigError
from vlv.files import atomic_folder, sync, write_text
from vlv.models.config import FORMER_NAMES, Component, Manifest
from vlv.unfinished import hidden_folder, remove_left_of

_COMPONENTS = frozenset({*get_args(Component), *FORMER_NAMES})
# By this transformers knows the classes of `vlv.integrations.transformers`.
_CONFIG = {"model_type": "vlv", "architectures": ["VLVForConditionalGeneration"]}


def read_manifest(folder: Path) -> Manifest:
    """Read vlv.json of a model folder.

    Raises CheckpointError for a file that is missing, damaged or of another format.
    """
    return read_settings(Manifest, folder / MANIFEST_FILE)


def component_folder(name: Component, folder: Path) -> Path:
    """Where a component lies in a model folder: older ones know some by another name."""
    for former, current in FORMER_NAMES.items():
        if current == name and not (folder / name).exists() and (folder / former).exists():
            return folder / former
    return folder / name


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write vlv.json and, of a model that captions by itself, what opens it in transformers."""
    left_out = {"adapter"} if manifest.adapter is None else None
    text = json.dumps(manifest.model_dump(exclude=left_out), indent=2, ensure_ascii=False)
    write_text(folder / MANIFEST_FILE, text + "\n")
    if captions_by_itself(manifest):
        write_text(folder / CONFIG_FILE, json.dumps(_CONFIG, indent=2) + "\n")


def captions_by_itself(manifest: Manifest) -> bool:
    """Whether a folder holds all that captions need; a fine-tune needs its base."""
    needed = {"encoder", "text_tower", "caption_decoder"}
    return needed <= set(manifest.components) and manifest.adapter is None


def copy_generation_settings(source: Path | None, folder: Path) -> None:
    """Take over how transformers generates with a model, where its folder says so."""
    if source is not None and (source / GENERATION_FILE).is_file():
        shutil.copyfile(source / GENERATION_FILE, folder / GENERATION_FILE)


def note_component(name: Component, folder: Path) -> None:
    """Say in vlv.json that the folder holds a component; nothing else there is written."""
    manifest = read_manifest(folder)
    if name not in manifest.components:
        manifest.components.append(name)
        write_manifest(manifest, folder)


@contextmanager
def new_model_folder(target: Path) -> Iterator[Path]:
    """A folder to write a model into; it takes the place of `target` when all went well.

    Raises:
        ConfigError: `target` holds something that is no model.
    """
    if target.exists() and not _replaceable(target):
        raise ConfigError(
            f"{target} exists and is no model folder; name another place, or move away what it "
            "holds."
        )
    if kept := _somebody_elses(target):
        raise ConfigError(
            f"{target} holds the folder {kept[0]}, which is no part of a model and would be lost; "
            "move it away or name another place."
        )
    with atomic_folder(target, overwrite=True) as building:
        yield building
        _reach_the_disk(building)


@contextmanager
def shared_model_folder(target: Path) -> Iterator[Path]:
    """A folder to write a model into; its parts take their places in `target` when all went well,
    and what else is there stays, such as the checkpoints of a trainer.

    While they are exchanged `target` has no vlv.json, so that half a model is never taken for one.

    Raises:
        ConfigError: `target` holds something in the place of a part.
    """
    if not target.is_dir() or not any(target.iterdir()):
        with new_model_folder(target) as building:
            yield building
        return
    is_model = (target / MANIFEST_FILE).is_file()
    if not is_model:
        _check_places(target)
    remove_left_of(target / MANIFEST_FILE)
    with hidden_folder(target / MANIFEST_FILE) as building:
        yield building
        if not is_model and (target / CARD_FILE).exists():
            (building / CARD_FILE).unlink(missing_ok=True)  # the one that is there is somebody's
        _reach_the_disk(building)
        _exchange_parts(building, target)


def _exchange_parts(building: Path, target: Path) -> None:
    """Move the parts of a model into `target`, and remove those of an older one there.

    After an error, the older ones are in a hidden folder of `target`.
    """
    replaced = Path(tempfile.mkdtemp(prefix=".old-", dir=target))
    parts = {path.name for path in building.iterdir()} - {MANIFEST_FILE}
    for name in (MANIFEST_FILE, *sorted(parts | _COMPONENTS)):
        if (target / name).exists():
            (target / name).rename(replaced / name)
        if name in parts:
            (building / name).rename(target / name)
    sync(target)
    (building / MANIFEST_FILE).rename(target / MANIFEST_FILE)
    sync(target)
    shutil.rmtree(replaced)


def _reach_the_disk(building: Path) -> None:
    """As of `atomic_file`: the weights reach the disk before the folder has its name."""
    for path in building.rglob("*"):
        sync(path)


def _check_places(target: Path) -> None:
    """Raise ConfigError where a part of a model would replace somebody's work."""
    for name in sorted({*_COMPONENTS, CONFIG_FILE, GENERATION_FILE}):
        if (target / name).exists():
            raise ConfigError(
                f"{target} is no model folder and holds {name}, which would be replaced; move it "
                "away or name another place."
            )


def _replaceable(target: Path) -> bool:
    """An empty folder or an older model may be replaced; anything else is somebody's work."""
    return target.is_dir() and ((target / MANIFEST_FILE).is_file() or not any(target.iterdir()))


def _somebody_elses(target: Path) -> list[str]:
    """Folders beside the parts of a model, such as `.git` or checkpoints of a trainer."""
    inside = target.iterdir() if target.is_dir() else ()
    # `hf download` leaves `.cache`.
    parts = {*_COMPONENTS, ".cache"}
    return sorted(one.name for one in inside if one.is_dir() and one.name not in parts)
