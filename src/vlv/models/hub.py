"""Where model ids resolve to folders: the embedded model, a local folder, or the Hub.

Knows names and places only; knows nothing of what a model folder holds but `vlv.json`.
"""

from pathlib import Path

from vlv.errors import CheckpointError

MANIFEST_FILE = "vlv.json"
WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
# Ids that are part of the package.
EMBEDDED = {
    "vlv-mini": WEIGHTS / "mini",
    # The encoder alone as stage 1 left it, for measuring what stage 2 changed.
    "vlv-mini-stage1": WEIGHTS / "mini-stage1",
}
# What a download needs: never pickles, never code.
DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.md"]


def resolve(id_or_path: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: an embedded id, then an existing folder, then an id on the Hub.

    revision pins a Hub id and is refused elsewhere. Raises CheckpointError when there is no such
    model or the Hub cannot be reached.
    """
    name = str(id_or_path)
    local = EMBEDDED.get(name, Path(id_or_path))
    if name in EMBEDDED or local.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"The model {name!r} is a folder and has no revisions; leave out {revision!r}."
            )
        if not (local / MANIFEST_FILE).is_file():
            raise CheckpointError(
                f"{local} is not a VLV model: it holds no {MANIFEST_FILE}; name a folder that "
                "`save_pretrained` wrote."
            )
        return local
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=DOWNLOADED)
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
