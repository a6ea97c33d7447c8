"""The model card that a saved model gets: what its parts are, what it knows, and what made it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlv.checkpoints.parts import AUTHORS_RECORD, CARD_FILE
from vlv.checkpoints.sizes import folder_sizes
from vlv.models.config import Manifest
from vlv.text import printable

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
holds no code: the package `vlv` reads it.

## What it knows

**{knows}**

## Parts

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
# The stages in which a model sees images and learns to say what is in them.
_READ_IMAGES = ("stage1", "stage2", "finetune")
_WORLD = "rendered scenes of simple shapes"
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
    trained = [
        f"- `{name}`: {_steps(run):,} steps"
        for name, run in _stages(manifest.provenance).items()
        if isinstance(run.get("steps"), int)
    ]
    rows = [f"| {_NAMES[name]} | {size.values:,} |" for name, size in folder_sizes(folder).items()]
    text = _CARD.format(
        knows=what_it_knows(manifest.provenance),
        license="apache-2.0" if licence.startswith("Apache-2.0") else "other",
        licence=" ".join(licence.split()),
        rows="\n".join(rows),
        stages="\n".join(["Training, as `vlv.json` records it:", "", *trained])
        if trained
        else "`vlv.json` records no training.",
    )
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def what_it_knows(provenance: Mapping[str, Any]) -> str:
    """One paragraph, which begins with "It knows": the images that a model has been trained on, as
    far as its provenance records them.
    """
    parts = [
        _name(part.get("id"))
        for part in provenance.get("parts", {}).values()
        if isinstance(part, dict)
    ]
    inherited = f" what its published parts know ({', '.join(parts)})" if parts else ""
    if AUTHORS_RECORD in provenance:
        return (
            f"It knows{inherited}, and the images that its authors trained it on, which `vlv.json` "
            "does not record."
        )
    runs = {name: run for name, run in _stages(provenance).items() if name in _READ_IMAGES}
    if not runs and parts:
        return f"It knows only{inherited}: its queries, phi and psi are not trained yet."
    if not runs:
        return (
            "It knows images that `vlv.json` does not record: check its captions of yours before "
            "you rely on them."
        )
    if not parts and all(_data(run) == _WORLD for run in runs.values()):
        return "It knows rendered scenes of simple shapes only. It cannot caption photographs."
    seen = [f"{_data(run)} ({_seen(run):,} seen in `{name}`)" for name, run in runs.items()]
    return f"It knows{inherited}{', and' if parts else ''} {', '.join(seen)}."


def knowledge_of(card: str) -> str | None:
    """The paragraph in bold of a card that begins with "It knows", in one line."""
    said = re.search(r"^\*\*(It knows [^*]+)\*\*$", card, re.MULTILINE)
    return said and " ".join(said[1].split())


def _stages(provenance: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: run for name, run in provenance.get("stages", {}).items() if isinstance(run, dict)
    }


def _data(run: Mapping[str, Any]) -> str:
    """The images of a run, in words."""
    config = run.get("config")
    data = config.get("data") if isinstance(config, dict) else None
    if not isinstance(data, dict):
        return "images that are not recorded"
    if "set" not in data:
        return _WORLD
    return f"the images of {_name(data['set'])}"


def _name(place: object) -> str:
    """A Hub id, or the last part of a path: where it lay on some machine is of no use to others."""
    text = str(place)
    name = Path(text).name if Path(text).is_absolute() else text
    return f"`{re.sub('[*`]', '', printable(name))}`"


def _seen(run: Mapping[str, Any]) -> int:
    """The images that a run has seen, and the runs that it went on from."""
    return _total(run, "samples_seen")


def _steps(run: Mapping[str, Any]) -> int:
    """As `_seen`, of steps."""
    return _total(run, "steps")


def _total(run: Mapping[str, Any], field: str) -> int:
    here, before = run.get(field), run.get("before")
    total = here if isinstance(here, int) else 0
    return total + (_total(before, field) if isinstance(before, dict) else 0)
