"""The model card of a fine-tune: README.md with the command and the figures of the run."""

import shlex
from pathlib import Path
from typing import Any

from vlv.data.remote.locations import shown_name
from vlv.models.config import AdapterRecord
from vlv.training.finetuning.config import FinetuneConfig, FinetuneSettings

_CARD = """---
base_model: {base}
library_name: vlv
tags:
- image-captioning
{peft}---

# {name}

A fine-tune of `{base}`{revision} for captions, made by

```
{command}
```

Use it like any model: `vlv caption --model FOLDER pictures`, or
`VLV.from_pretrained("FOLDER").caption(image)` in Python. `vlv finetune --merge FOLDER --out MERGED`
writes a model folder that needs no base.

**It knows what `{base}` knows, and the {pictures} pictures of this fine-tune.**

| | |
|---|---|
{rows}

The licence of the base applies, and the terms of the pictures and captions.
"""


def write_card(
    settings: FinetuneSettings,
    config: FinetuneConfig,
    base: AdapterRecord,
    run: dict[str, Any],
    before: float | None,
    pictures: int,
    folder: Path,
) -> None:
    """Write README.md into a folder; run: the record of the loop, before: the loss of held-out
    captions under the base.
    """
    # A path is of no use to others.
    name = Path(base.base).name if Path(base.base).is_absolute() else base.base
    held = config.validation_count if before is not None else 0
    lora = config.method == "lora"
    rows = {
        "trained": f"LoRA of rank {config.lora_rank}, and psi" if lora else "the caption decoder",
        "pictures": f"{pictures - held} to train on, {held} held out",
        "view": "the whole picture, squeezed into a square"
        if config.crop_size is None
        else f"the middle square of {config.crop_size} px",
        "trigger word": config.trigger,
        "caption dropout": config.caption_dropout or "",
        "quantization": config.quantization or "",
        "steps": f"{run['steps']}, of {_batch(config)} pictures, at a learning rate of "
        f"{config.learning_rate:g}",
        "best step": run.get("best_step", ""),
        "loss of held-out captions": ""
        if before is None
        else f"{before:.3f} before, {run['validation']['caption_loss']:.3f} after",
        "time": f"{run['seconds']:.0f} s on {run['device']['name'] or run['device']['type']}",
        "seed": config.seed,
    }
    text = _CARD.format(
        base=name,
        pictures=pictures - held,
        peft="- lora\n" if lora else "",
        name=settings.out.name,
        revision=f" at `{base.revision}`" if base.revision else "",
        command=command(settings),
        rows="\n".join(f"| {what} | {value} |" for what, value in rows.items() if value != ""),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _batch(config: FinetuneConfig) -> int:
    return config.train_batch_size * config.gradient_accumulation_steps


def command(settings: FinetuneSettings) -> str:
    """The command that has these settings."""
    default = FinetuneSettings(settings.model, settings.images, settings.out)
    words = [
        "vlv",
        "finetune",
        settings.model,
        shown_name(settings.images),
        "--out",
        str(settings.out),
    ]
    flags = {
        "--revision": "revision",
        "--lora-rank": "lora_rank",
        "--quantization": "quantization",
        "--epochs": "epochs",
        "--learning-rate": "learning_rate",
        "--batch-size": "batch_size",
        "--view": "view",
        "--caption-dropout": "caption_dropout",
        "--trigger": "trigger",
        "--validation": "validation",
        "--seed": "seed",
    }
    for flag, name in flags.items():
        if (value := getattr(settings, name)) != getattr(default, name):
            words += [flag, str(value)]
    words += ["--full"] if settings.full else []
    words += ["--first-line"] if settings.first_line else []
    return shlex.join(words)
