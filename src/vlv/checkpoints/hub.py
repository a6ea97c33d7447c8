"""Where model ids resolve to folders: the embedded model, a local folder, or the Hub.

Knows names and places only; knows nothing of what a model folder holds but `vlv.json`.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.checkpoints.headers import holds_weights
from vlv.checkpoints.parts import HUB_FILES, MANIFEST_FILE, BaseModelName
from vlv.errors import CheckpointError, ConfigError
from vlv.text import printable

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
# Ids that are part of the package.
EMBEDDED = {
    "vlv-mini": WEIGHTS / "mini",
    # Only the encoder, as stage 1 left it: for measuring what stage 2 changed.
    "vlv-mini-stage1": WEIGHTS / "mini-stage1",
}
# owner/name, as the Hub writes its ids.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
# Seconds until the Hub is taken for unreachable.
_PATIENCE = 5
# What a download needs: never code.
DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.md", "*.jinja", "*.model"]
# Weights of the authors may come as these; they are read by a restricted unpickler.
PICKLED = ["*.pt", "*.pth", "*.bin"]


@dataclass(frozen=True)
class DownloadOptions:
    """How files come from the Hub; the words are those of `huggingface_hub`.

    token: a token, True for that of `hf auth login`, or False for none; None is that of the login
    where there is one. cache_dir: where files are kept; None is the cache of `huggingface_hub`.
    local_files_only: ask nothing of the Hub. force_download: fetch what is there already again.

    Raises ConfigError for the last two together.
    """

    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False

    def __post_init__(self) -> None:
        if self.local_files_only and self.force_download:
            raise ConfigError(
                "force_download asks the Hub, and local_files_only does not; leave one of them out"
            )


USUAL_DOWNLOAD = DownloadOptions()


def resolve(
    id_or_path: str | Path,
    revision: str | None = None,
    download: DownloadOptions = USUAL_DOWNLOAD,
) -> Path:
    """Where a model lies: an embedded id, then a path that exists, then an id on the Hub.

    It is a model folder, or else a file or folder of weights without vlv.json, which may be a
    checkpoint in the authors' layout. revision pins a Hub id.

    Raises CheckpointError when there is no such model or the Hub cannot be reached, and ConfigError
    for a revision of what is not on the Hub.
    """
    name = str(id_or_path)
    local = EMBEDDED.get(name, Path(id_or_path).expanduser())
    if name in EMBEDDED or local.exists():
        if revision is not None:
            raise ConfigError(
                f"The model {name!r} is a folder and has no revisions; leave out {revision!r}."
            )
        if local.is_dir() and not (local / MANIFEST_FILE).is_file() and not holds_weights(local):
            final = local / "final"  # of a training run
            is_run = (final / MANIFEST_FILE).is_file()
            raise CheckpointError(
                f"{local} is not a VLV model: it holds no {MANIFEST_FILE}; name "
                + (
                    f"{final}, which holds one."
                    if is_run
                    else "a folder that `save_pretrained` wrote."
                )
            )
        return local
    if is_path(id_or_path):
        raise CheckpointError(f"There is no file or folder {printable(name)}.")
    if not _HUB_ID.fullmatch(name):
        known = ", ".join(EMBEDDED)
        raise CheckpointError(
            f"There is no folder {name!r}, no model of the package is called so ({known}), and it "
            "is not a Hub id (owner/name) either."
        )
    held = _on_the_hub(name, revision, download)
    return _download(name, revision, _model_files(held), download, reachable=held is not None)


def is_path(id_or_path: str | Path) -> bool:
    """Whether a name is meant as a path, for which nothing is asked of the Hub: it exists, or is
    written as no id is. A folder that is called as an owner on the Hub makes no path of its ids.
    """
    if isinstance(id_or_path, Path):
        return True
    name = id_or_path
    return (
        os.path.exists(name)
        or name.startswith((".", "/", "~"))
        or name.endswith("/")
        or "\\" in name
        or name.count("/") > 1
        or Path(name).suffix in (".safetensors", ".pt", ".pth", ".bin", ".json")
    )


def is_hub_id(name: str) -> bool:
    """Whether a name that is no folder here may be one of the Hub's."""
    return not is_path(name) and _HUB_ID.fullmatch(name) is not None


def resolve_base_model(
    role: BaseModelName,
    id_or_path: str | Path,
    revision: str | None = None,
    *,
    published: str | None = None,
    gate: str | None = None,
    weights: bool = True,
    download: DownloadOptions = USUAL_DOWNLOAD,
) -> Path:
    """The folder of a published part (`encoder`, `decoder` or `language_model`).

    A local folder is taken as it is and has no revision. `published` is the commit that is fetched
    of an id where no revision is named, and `gate` what is known to be needed before it can be.
    Without `weights` only configs and tokenizers are fetched.

    Raises CheckpointError for one that is missing, or that the Hub gives to others only.
    """
    local = Path(id_or_path).expanduser()
    if local.is_dir():
        if revision is not None:
            raise ConfigError(
                f"The {role} {str(local)!r} is a folder and has no revisions; leave out "
                f"{revision!r}."
            )
        return local
    name = str(id_or_path)
    if is_path(id_or_path):
        raise CheckpointError(f"There is no folder {printable(name)} for the {role}.")
    files = [name for name in HUB_FILES[role] if weights or not name.endswith(".safetensors")]
    revision = revision or published
    try:
        reachable = _on_the_hub(name, revision, download) is not None
        return _download(name, revision, files, download, reachable=reachable)
    except CheckpointError as error:
        if _is_gated(error.__cause__) or (gate and _is_refused(error.__cause__)):
            raise CheckpointError(
                f"The {role} {name!r} {gate or _GATED}: https://huggingface.co/{name}; do that "
                "there, and log in with `hf auth login`."
            ) from error
        raise


# What the Hub's pages ask for before it gives a gated model.
_GATED = "needs a licence accepted on the Hub"


def _is_gated(error: BaseException | None) -> bool:
    from huggingface_hub.errors import GatedRepoError

    return isinstance(error, GatedRepoError)


def _is_refused(error: BaseException | None) -> bool:
    """Whether the Hub answered that it keeps something from this user."""
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None) in (401, 403)


def _on_the_hub(name: str, revision: str | None, download: DownloadOptions) -> "ModelInfo | None":
    """What the Hub reports of a model, asked once; None where it does not answer, or is not to be
    asked.

    Raises CheckpointError where it answers that there is no such model or revision.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if download.local_files_only:
        return None
    try:
        return HfApi(token=download.token).model_info(name, revision=revision, timeout=_PATIENCE)
    except HFValidationError as error:
        raise CheckpointError(
            f"There is no folder {name!r}, and it is not a Hub id (owner/name) either."
        ) from error
    except LocalTokenNotFoundError as error:
        raise CheckpointError(
            "token=True is the token of a login, and there is none; log in with `hf auth login`, "
            "or name the token."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        if _was_fetched(name, revision, download):
            return None  # it has gone since, or the token that let it be read has
        what = f"the revision {revision!r} of {name!r}" if revision else f"{name!r}"
        raise CheckpointError(
            f"There is no folder {name!r}, and the Hub has no {what}, or keeps it from you; check "
            "the name and the revision, or log in with `hf auth login`."
        ) from error
    except Exception:  # whatever its HTTP library raises, or an answer that is none
        return None


def _was_fetched(name: str, revision: str | None, download: DownloadOptions) -> bool:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            name, revision=revision, cache_dir=download.cache_dir, local_files_only=True
        )
    except Exception:  # whatever its library raises where there is none
        return False
    return True


def _model_files(held: "ModelInfo | None") -> list[str]:
    """What to fetch of a model: PyTorch's files only from a repository that has no safer ones. Of
    one that was fetched before, what there has to be: it may have held both.
    """
    if held is None:
        return DOWNLOADED
    safe = any(file.rfilename.endswith(".safetensors") for file in held.siblings or [])
    return DOWNLOADED + ([] if safe else PICKLED)


def snapshot_commit(folder: Path) -> str | None:
    """The commit of a folder that came from the Hub, whose cache names folders so."""
    return folder.name if folder.parent.name == "snapshots" else None


def _download(
    name: str,
    revision: str | None,
    files: list[str],
    download: DownloadOptions,
    *,
    reachable: bool,
) -> Path:
    """The snapshot of a model, fetched where the Hub is `reachable`, and otherwise the one that was
    fetched before.
    """
    from huggingface_hub import constants, snapshot_download

    if download.force_download and not reachable:
        raise CheckpointError(
            f"The model {name!r} cannot be fetched again, as the Hub does not answer or no longer "
            "gives it; leave out force_download to open what was fetched before."
        )
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=files,
            etag_timeout=_PATIENCE,
            token=download.token,
            cache_dir=download.cache_dir,
            force_download=download.force_download,
            local_files_only=not reachable,
        )
    except Exception as error:  # an answer of the Hub's, or whatever its HTTP library raises
        at = f" at {revision}" if revision else ""
        failed = f"The model {name!r} is no folder here and could not be fetched from the Hub{at}"
        if constants.HF_HUB_OFFLINE or download.local_files_only:
            switch = "local_files_only" if download.local_files_only else "HF_HUB_OFFLINE"
            raise CheckpointError(
                f"{failed} ({switch} is set, and it was not fetched before); check the name and "
                "the revision, or unset it."
            ) from error
        raise CheckpointError(
            f"{failed} ({type(error).__name__}); check the name, the revision and the connection."
        ) from error
    return Path(folder)
