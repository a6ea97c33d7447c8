"""The Hub in miniature: its cache on disk, with tiny models under the ids of the real ones."""

from pathlib import Path

import torch
from tests.checkpoints.authors_layout import CLIP, QWEN, UNET, VISION, authors_state
from tests.checkpoints.parts import (
    diffusion_folder,
    florence_folder,
    language_model_folder,
    pipeline_folder,
)

from vlv.checkpoints.parts import BaseModelName
from vlv.checkpoints.published import default_base_model, revision_of

AUTHORS = "lambertxiao/Vision-Language-Vision-Captioner-Qwen2.5-3B"
NEWER = "stabilityai/stable-diffusion-3.5-medium"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def tiny_hub(folder: Path) -> dict[str, str]:
    """Fill `folder` with the paper's parts, a newer decoder and the authors' captioner; the
    environment in which they are found, without a connection.
    """
    florence_folder(_part(folder, "encoder"), VISION)
    diffusion_folder(_part(folder, "decoder"), text=CLIP, unet=UNET)
    language_model_folder(_part(folder, "language_model"), sizes=QWEN)
    pipeline_folder(_snapshot(folder, NEWER, revision_of("decoder", NEWER) or COMMIT), "sd3")
    torch.save(authors_state(1, 2), _snapshot(folder, AUTHORS, COMMIT) / "model.pt")
    return {
        "HF_HUB_CACHE": str(folder),
        "HF_HUB_OFFLINE": "1",
        "VLV_CACHE": str(folder / "converted"),
    }


def _part(hub: Path, role: BaseModelName) -> Path:
    """The folder of the paper's part, at the commit that is fetched of it."""
    name = default_base_model(role)
    return _snapshot(hub, name, revision_of(role, name) or COMMIT)


def _snapshot(hub: Path, name: str, commit: str) -> Path:
    """The folder of a repository, laid out as `huggingface_hub` does; nobody has moved its branch
    since.
    """
    repository = hub / f"models--{name.replace('/', '--')}"
    references = repository / "refs"
    references.mkdir(parents=True)
    (references / "main").write_text(commit)
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    return folder
