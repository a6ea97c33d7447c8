"""All stages in order: what is done is skipped, what was cut off goes on.

A preset is a folder of configs (configs/mini, configs/mini-gpu; configs/decoders/mini starts from
parts of the package). The last step puts the parts together into a model folder as `vlv` ships it:
half precision, with the provenance of each stage.
"""

import json
import logging
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image

from vlv.checkpoints.boxes import add_ood_detector
from vlv.checkpoints.components import load_network
from vlv.checkpoints.opening import load_model, save_model
from vlv.errors import ConfigError
from vlv.models.ood import OODDetector, picture_features
from vlv.models.vlv import VLVModel
from vlv.training.accelerator import computing_device, forget_accelerator
from vlv.training.config import TrainingConfig, WorldDataConfig, differing_fields
from vlv.training.loop import train
from vlv.training.meta_steps import meta_boxes
from vlv.training.provenance import RECORD, provenance, read_record
from vlv.training.registry import build_stage, stage_config
from vlv.training.samples.world import world_images
from vlv.training.stages import text_to_image
from vlv.training.stages.encoding import EncoderStageConfig
from vlv.training.stages.text_to_image import TextToImageConfig
from vlv.training.starts import STARTS, Starts, hashes_of
from vlv.training.verifier import verifier_scenes, world_verifier
from vlv.verification.verifier import add_verifier
from vlv.world.inspector import Inspector

logger = logging.getLogger(__name__)

# Stage of each config file, in the order of running. A preset may do without `OPTIONAL` ones, whose
# parts its other configs then name.
ORDER = {
    "vae": "vae",
    "inspector": "inspector",
    "text-to-image": "text-to-image",
    "vae-decoder": "vae",
    "language-model": "language-model",
    "stage1": "stage1",
    "stage2": "stage2",
    "captions": "stage2",  # stage 2 goes on, with the encoder frozen
    "nested": "stage2",  # and with all parts and shorter z
}
OPTIONAL = {"vae", "inspector", "vae-decoder", "language-model", "captions", "nested"}
# Of the training scenes, those that the OOD detector is fitted on.
IN_DISTRIBUTION_SCENES = 8192
# In the folder of the assembled model: the records of the runs that it was made of. It is written
# last, since fitting the verifier takes long and may be cut off.
ASSEMBLED = "assembled.json"


def configs_folder() -> Path:
    """The folder `configs`: packed into an installed package, or beside `src` in a checkout."""
    packed = Path(str(files("vlv"))) / "configs"
    return packed if packed.is_dir() else Path(__file__).resolve().parents[3] / "configs"


def reproduce(preset: str) -> Path:
    """Run every stage of `preset` that is not done, and assemble the model where a stage is newer
    than it; returns its folder.

    Raises:
        ConfigError: there is no such preset, or a stage was done with another config, or with
            models that an earlier stage has replaced.
    """
    folder = configs_folder() / preset
    if not _is_preset(folder):
        raise ConfigError(f"there is no preset {preset!r}; the presets are {', '.join(presets())}")
    finals: dict[str, Path] = {}
    for name, stage in ORDER.items():
        path = folder / f"{name}.yaml"
        if name in OPTIONAL and not path.is_file():
            continue
        config, _ = stage_config(stage, path)
        finals[name] = config.output_dir / "final"
        if _is_done(finals[name], config):
            _require_current(finals[name], config)
            logger.info("%s: done already (%s)", name, finals[name])
        else:
            train(build_stage(stage, path))
    target = finals["stage2"].parents[1] / "model"
    runs = {name: read_record(final) for name, final in finals.items()}
    made_of = json.dumps(runs, sort_keys=True)
    if _content(target / ASSEMBLED) == made_of:
        logger.info("model: assembled already (%s)", target)
        return target
    (target / ASSEMBLED).unlink(missing_ok=True)
    assemble(finals, runs, target)
    (target / ASSEMBLED).write_text(made_of, encoding="utf-8")
    return target


def presets() -> list[str]:
    """Names of all presets: their folders in `configs`."""
    root = configs_folder()
    folders = {path.parent for path in root.rglob("*.yaml")}
    return sorted(str(PurePosixPath(f.relative_to(root))) for f in folders if _is_preset(f))


def _is_preset(folder: Path) -> bool:
    """Whether every stage has its config there; the paper's recipes start from published parts."""
    return all((folder / f"{name}.yaml").is_file() for name in ORDER if name not in OPTIONAL)


def _is_done(final: Path, config: TrainingConfig) -> bool:
    """Whether the run of `config` has ended; a shorter one of the same config goes on."""
    if not (final / RECORD).is_file():
        return False
    run = read_record(final)
    differing = differing_fields(run["config"], config)
    if differing:
        raise ConfigError(
            f"{final} was made with other values of {', '.join(differing)} than the config has; "
            f"remove {final.parent} to run the stage again"
        )
    return bool(run["steps"] >= config.max_train_steps)


def _require_current(final: Path, config: TrainingConfig) -> None:
    """Raises ConfigError for a stage that started from what an earlier one has replaced since."""
    made_from = read_record(final).get(STARTS, {})  # older records do not say it
    if not made_from:
        return
    now = hashes_of(_starts_of(config))
    for field in sorted(made_from.keys() & now.keys()):
        if made_from[field] != now[field]:
            raise ConfigError(
                f"{final} was made from other weights than those in {getattr(config, field)} now, "
                f"which were made again since; remove {final.parent} to run the stage again"
            )


def _starts_of(config: TrainingConfig) -> Starts:
    if isinstance(config, EncoderStageConfig):
        return meta_boxes(config).boxes.starts
    return text_to_image.starts_of(config) if isinstance(config, TextToImageConfig) else {}


def _opened(folder: Path) -> VLVModel:
    """The model where training computes."""
    device = computing_device()
    forget_accelerator()
    return load_model(folder, device=device)


def _add_ood_detector(folder: Path, data: dict[str, Any]) -> None:
    """Fitted on scenes that the model was trained on, with the weights as they are stored."""
    encoder = _opened(folder).encoder
    images = world_images(WorldDataConfig.model_validate(data)).images[:IN_DISTRIBUTION_SCENES]
    pictures = (Image.fromarray(image) for image in images)
    add_ood_detector(OODDetector.fit(picture_features(encoder, pictures)), folder)


def _add_verifier(folder: Path) -> None:
    """A model with too few true sentences gets none."""
    try:
        fitted = world_verifier(_opened(folder), verifier_scenes())
    except ConfigError as error:
        logger.warning("no verifier for %s: %s", folder, error)
    else:
        add_verifier(fitted, folder)


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def assemble(finals: dict[str, Path], runs: dict[str, dict[str, Any]], target: Path) -> None:
    """Write target/mini, target/mini-stage1 (its encoder only) and, where one was trained,
    target/inspector. finals: what each stage wrote; runs: their records.
    """
    stage2 = [name for name in finals if ORDER[name] == "stage2"]
    last = stage2[-1]
    model = load_model(finals[last])
    if "vae-decoder" in finals:
        # The same latents, drawn by the decoder that was trained longest.
        model.decoder.vae = load_network(AutoencoderKL, finals["vae-decoder"] / "vae")
    # The record of a run names the runs before it that it goes on from.
    stages = {name: run for name, run in runs.items() if name not in stage2}
    stages["stage2"] = runs[last]
    model.manifest.provenance.update(provenance(stages))
    save_model(model, target / "mini", dtype=torch.float16)
    _add_ood_detector(target / "mini", runs["stage2"]["config"]["data"])
    _add_verifier(target / "mini")
    before = load_model(finals["stage1"])
    before.manifest.provenance.update(provenance({"stage1": runs["stage1"]}))
    save_model(before, target / "mini-stage1", dtype=torch.float16, components=["encoder"])
    if "inspector" in finals:
        Inspector.from_pretrained(finals["inspector"]).save_pretrained(
            target / "inspector",
            provenance=provenance({"inspector": runs["inspector"]}),
            dtype=torch.float16,
        )
