"""Does what the decoder says of words mend a caption decoder, and which link holds? In minutes.

    python benchmarks/preference_links.py --folder runs/links
    python benchmarks/preference_links.py --folder runs/links --variants decoder truth

The start is `vlv-mini` with noise on psi, so that it writes English and misreads the picture: a
weakness that few steps can mend, not that of a caption decoder with few pairs, which
`vlv eval preferences` measures in hours. All variants learn from the same exchanged words of the
same captions, without any pair, for as many steps; only who decides differs. What is done is kept
in the folder: a run that was stopped goes on, and other variants can be added.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vlv.evaluation.metrics.captions import caption_figures
from vlv.evaluation.metrics.statistics import Figure
from vlv.evaluation.results import Result, Row, environment, to_json
from vlv.pipeline import VLV
from vlv.training.config import check_config
from vlv.training.loop import train
from vlv.training.preference_data import FILE, PreferenceDataConfig, make_preferences
from vlv.training.provenance import RECORD
from vlv.training.stages import preferences
from vlv.world.render import render
from vlv.world.scene import sample_scene

FIRST = 3_000_000
_TEST = 1_000_000
VARIANTS: dict[str, dict[str, Any]] = {
    "before": {},
    "random": {"judge": "random"},
    "decoder": {"judge": "decoder"},
    "truth": {"judge": "truth"},
    "decoder, likelihood": {"judge": "decoder", "preference_loss": "likelihood"},
    "truth, likelihood": {"judge": "truth", "preference_loss": "likelihood"},
}


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    start, words = _weak(given), _words(given)
    rows = []
    for name in given.variants:
        kept = given.folder / f"{name.replace(', ', '-')}-{given.count}.json"
        if not kept.is_file():
            model = start if name == "before" else _trained(given, name, words)
            figures = _measured(model, given.count)
            kept.write_text(json.dumps(figures))
        figures = {key: Figure(**one) for key, one in json.loads(kept.read_text()).items()}
        rows.append(Row({"variant": name}, given.count, figures))
        print(name, {key: round(one.value, 3) for key, one in figures.items()}, flush=True)
    record = json.loads((given.folder / "words" / "final" / RECORD).read_text())
    settings = {name: str(value) for name, value in vars(given).items()}
    result = Result(
        name="preference-links",
        title="A caption decoder with noise on psi, and words of its captions that are judged",
        paper="not in the paper",
        rows=rows,
        provenance={"settings": settings, "words": record["validation"], **environment()},
    )
    (given.folder / "result.json").write_text(json.dumps(to_json(result), indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--images", type=int, default=120, help="whose words are judged")
    parser.add_argument("--levels", type=float, nargs="*", default=[0.2], help="of noise")
    parser.add_argument("--count", type=int, default=48, help="held-out scenes")
    parser.add_argument("--noise", type=float, default=1.0, help="on psi, in deviations of it")
    parser.add_argument("--steps", type=int, default=40, help="of 16 captions")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    return parser.parse_args()


def _weak(given: argparse.Namespace) -> Path:
    """The start."""
    folder: Path = given.folder / "start"
    if not (folder / "vlv.json").is_file():
        model = VLV.from_pretrained("vlv-mini")
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in model.caption_decoder.psi.parameters():
                if weight.ndim > 1:
                    noise = torch.randn(weight.shape, generator=generator)
                    weight += given.noise * weight.std() * noise
        model.save_pretrained(folder)
    return folder


def _common(given: argparse.Namespace) -> dict[str, Any]:
    data = {"first_seed": FIRST, "count": given.images, "workers": 1}
    return {
        "start": str(given.folder / "start"),
        "data": {**data, "folder": str(given.folder / "world")},
        "num_threads": 1,
    }


def _words(given: argparse.Namespace) -> Path:
    """The file of judged words."""
    fields = {"output_dir": str(given.folder / "words"), "pairs": 0}
    fields |= {"images": given.images, "levels": given.levels}
    config = check_config(PreferenceDataConfig, {**_common(given), **fields}, "of the words")
    return make_preferences(config) / FILE


def _trained(given: argparse.Namespace, name: str, words: Path) -> Path:
    """A variant's model."""
    fields = {
        **_common(given),
        **VARIANTS[name],
        "output_dir": str(given.folder / name.replace(", ", "-")),
        "preferences": str(words),
        "max_train_steps": given.steps,
        "train_batch_size": 16,
        "learning_rate": given.learning_rate,
        "lr_warmup_steps": 5,
        "checkpointing_steps": 10,
        "validation_count": 16,
        "validation_picture": False,
        "pair_share": 0.0,
        "report_to": "none",
    }
    return train(preferences.build(check_config(preferences.PreferencesConfig, fields, name)))


def _measured(folder: Path, count: int) -> dict[str, Any]:
    """Figures of greedy captions of held-out scenes."""
    scenes = [sample_scene(_TEST + at, "test") for at in range(count)]
    model = VLV.from_pretrained(folder)
    z = model.encode([Image.fromarray(render(scene)) for scene in scenes])
    captions = model.caption_from_z(z, num_beams=1, max_new_tokens=96)
    return {name: vars(one) for name, one in caption_figures(captions, scenes, 0).items()}


if __name__ == "__main__":
    main()
