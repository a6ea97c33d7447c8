"""Where model ids resolve to folders: the embedded model, a local folder, or the Hub.

Knows names and places only; knows nothing of what a model folder holds but `vlv.json`.
"""

from pathlib import Path

from vlv.errors import CheckpointError
from vlv.models.weights import holds_weights

MANIFEST_FILE = "vlv.json"
WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
# Ids that are part of the package.
EMBEDDED = {
    "vlv-mini": WEIGHTS / "mini",
    # The encoder alone as stage 1 left it, for measuring what stage 2 changed.
    "vlv-mini-stage1": WEIGHTS / "mini-stage1",
}
# What a download needs: never code.
DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.md"]
# Weights of the authors may come as these; they are read by a restricted unpickler.
PICKLED = ["*.pt", "*.pth", "*.bin"]
# What is used of a published part, by its role: repositories hold other formats and precisions.
_TEXT_FILES = ["*.json", "*.txt"]
_DECODER_FOLDERS = ("text_encoder", "tokenizer", "vae", "unet", "scheduler")
_PART_FILES = {
    "encoder": [*_TEXT_FILES, "model*.safetensors"],
    "language_model": [*_TEXT_FILES, "model*.safetensors"],
    "decoder": [
        f"{folder}/{files}"
        for folder in _DECODER_FOLDERS
        for files in ("*.json", "*.txt", "*model.safetensors", "*model-0*.safetensors")
    ],
}


def resolve(id_or_path: str | Path, revision: str | None = None) -> Path:
    """Where a model lies: an embedded id, then a path that exists, then an id on the Hub.

    It is a model folder, or else a file or folder of weights without vlv.json, which may be a
    checkpoint in the authors' layout. revision pins a Hub id and is refused elsewhere. Raises
    CheckpointError when there is no such model or the Hub cannot be reached.
    """
    name = str(id_or_path)
    local = EMBEDDED.get(name, Path(id_or_path))
    if name in EMBEDDED or local.exists():
        if revision is not None:
            raise CheckpointError(
                f"The model {name!r} is a folder and has no revisions; leave out {revision!r}."
            )
        if local.is_dir() and not (local / MANIFEST_FILE).is_file() and not holds_weights(local):
            raise CheckpointError(
                f"{local} is not a VLV model: it holds no {MANIFEST_FILE}; name a folder that "
                "`save_pretrained` wrote."
            )
        return local
    if "/" not in name:
        known = ", ".join(EMBEDDED)
        raise CheckpointError(
            f"There is no folder {name!r}, no model of the package is called so ({known}), and it "
            "is not a Hub id (owner/name) either."
        )
    return _download(name, revision, _model_files(name, revision))


def resolve_part(
    role: str, id_or_path: str | Path, revision: str | None = None, *, weights: bool = True
) -> Path:
    """The folder of a published part (`encoder`, `decoder` or `language_model`).

    A local folder is taken as it is and has no revision. Without `weights` only configs and
    tokenizers are fetched.
    """
    local = Path(id_or_path)
    if local.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"The {role} {str(local)!r} is a folder and has no revisions; leave out "
                f"{revision!r}."
            )
        return local
    files = [name for name in _PART_FILES[role] if weights or not name.endswith(".safetensors")]
    return _download(str(id_or_path), revision, files)


def _model_files(name: str, revision: str | None) -> list[str]:
    """What to fetch of a model: PyTorch's files only from a repository that has no safer ones."""
    from huggingface_hub import HfApi

    try:
        held = HfApi().list_repo_files(name, revision=revision)
    except Exception:  # a refused id, an answer of the Hub's, or whatever its HTTP library raises
        return DOWNLOADED + PICKLED  # the download tells what is wrong, or finds it fetched before
    return DOWNLOADED + ([] if any(file.endswith(".safetensors") for file in held) else PICKLED)


def part_revision(folder: Path) -> str | None:
    """The commit of a folder that came from the Hub, whose cache names folders so."""
    return folder.name if folder.parent.name == "snapshots" else None


def _download(name: str, revision: str | None, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=files)
    except HFValidationError as error:
        raise CheckpointError(
            f"There is no folder {name!r}, and it is not a Hub id (owner/name) either."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"The model {name!r} is no folder here and could not be fetched from the Hub "
            f"({type(error).__name__}); check the name, the revision and the connection."
        ) from error
    return Path(folder)
