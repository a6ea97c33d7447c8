"""Model folders on the Hugging Face Hub, and the model card that a saved model gets."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlv.checkpoints.sizes import folder_sizes
from vlv.errors import CheckpointError
from vlv.models.config import Manifest

CARD_FILE = "README.md"
_CARD = """---
license: {license}
library_name: vlv
pipeline_tag: image-to-text
tags:
- image-captioning
- vision-language-vision
---

# A Vision-Language-Vision auto-encoder

It captions images and draws them again, both from the same caption embeddings *z*
([arXiv 2507.07104](https://arxiv.org/abs/2507.07104)). The weights are safetensors, and the folder
holds no code: `pip install vlv` brings it.

| part | parameters |
|---|---|
{rows}

## Use

```python
from vlv import VLV, load_image

model = VLV.from_pretrained("FOLDER OR ID")
print(model.caption(load_image("image.png"))[0])
```

With transformers:

```python
import vlv
from transformers import pipeline

captions = pipeline("image-text-to-text", model="FOLDER OR ID")
print(captions("image.png", text="")[0]["generated_text"])
```

## Origin

Licence: {licence}.

{stages}
"""
_NAMES = {
    "encoder": "encoder (Florence-2)",
    "head": "queries and phi",
    "text_tower": "text tower",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "text_encoder_3": "third text encoder",
    "vae": "VAE",
    "unet": "denoiser",
    "transformer": "denoiser",
    "psi": "psi",
    "language_model": "language model",
}


def write_card(manifest: Manifest, folder: Path) -> None:
    """Write the model card of a model folder: what its parts are, its use, and what made it."""
    licence = str(manifest.provenance.get("licence") or "not recorded")
    stages = manifest.provenance.get("stages", {})
    trained = [
        f"- `{name}`: {run['steps']:,} steps"
        for name, run in stages.items()
        if isinstance(run, dict) and isinstance(run.get("steps"), int)
    ]
    rows = [f"| {_NAMES[name]} | {size.values:,} |" for name, size in folder_sizes(folder).items()]
    text = _CARD.format(
        license="apache-2.0" if licence.startswith("Apache-2.0") else "other",
        licence=" ".join(licence.split()),
        rows="\n".join(rows),
        stages="\n".join(["Training, as `vlv.json` records it:", "", *trained])
        if trained
        else "`vlv.json` records no training.",
    )
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def publish(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    commit_message: str = "Upload a VLV",
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload the model folder that `save` writes to a repository of the Hub, which is made if there
    is none, and return the address of the commit. The login is that of `hf auth login`.

    Raises CheckpointError where the Hub does not take it.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save(folder)
        try:
            name = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None:
                hub.create_branch(name, branch=revision, exist_ok=True)
            commit: Any = hub.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
        except Exception as error:  # whatever the Hub answers, or its HTTP library raises
            raise CheckpointError(
                f"the model could not be uploaded to {repo_id} "
                f"({' '.join(str(error).split())[:200]}); log in with `hf auth login` and check "
                "that the repository is yours"
            ) from error
    return str(commit.commit_url)
