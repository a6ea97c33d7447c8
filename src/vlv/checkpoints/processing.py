"""What is done to pictures and texts before and after a model, read without its weights: how the
encoder sees pictures, and the tokenizer of captions.
"""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vlv.checkpoints.adapters import adapter_record
from vlv.checkpoints.components import load_tokenizer, read_settings, save_tokenizer, write_settings
from vlv.checkpoints.hub import USUAL_DOWNLOAD, DownloadOptions
from vlv.checkpoints.inspection import inspect_processing
from vlv.checkpoints.opening import base_folder, model_folder
from vlv.checkpoints.parts import ENCODER_SETTINGS_FILE, MANIFEST_FILE, PARTS
from vlv.models.config import EncoderDescription, EncoderSettings

_ENCODER = Path(PARTS["encoder"].folder)
_LANGUAGE_MODEL = Path(PARTS["language_model"].folder)


def load_processing(
    id_or_path: str | Path,
    revision: str | None = None,
    download: DownloadOptions = USUAL_DOWNLOAD,
) -> tuple[EncoderSettings, PreTrainedTokenizerFast]:
    """How a model sees pictures, and the tokenizer of its captions.

    A folder that `save_processing` wrote does, too. Raises CheckpointError where there is no model,
    or one that cannot caption.
    """
    local = Path(id_or_path).expanduser()
    if (local / _ENCODER / ENCODER_SETTINGS_FILE).is_file() and not (
        local / MANIFEST_FILE
    ).is_file():
        inspect_processing(local)
        return _read(local)
    folder = model_folder(id_or_path, revision, download=download)
    record = adapter_record(folder)
    if record is None:
        return _read(folder)
    settings, tokenizer = _read(base_folder(record, folder, download))
    if record.method == "full":
        tokenizer = load_tokenizer(AutoTokenizer, folder / _LANGUAGE_MODEL)
    return settings.model_copy(update={"crop_size": record.crop_size}), tokenizer


def save_processing(
    settings: EncoderSettings, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write what `load_processing` reads; a model folder has it already, and stays as it is."""
    if (folder / MANIFEST_FILE).is_file():
        return
    (folder / _LANGUAGE_MODEL).mkdir(parents=True, exist_ok=True)
    write_settings(settings, folder / _ENCODER / ENCODER_SETTINGS_FILE)
    save_tokenizer(tokenizer, folder / _LANGUAGE_MODEL)


def _read(folder: Path) -> tuple[EncoderSettings, PreTrainedTokenizerFast]:
    path = folder / _ENCODER / ENCODER_SETTINGS_FILE
    kind = EncoderDescription if (folder / MANIFEST_FILE).is_file() else EncoderSettings
    described = read_settings(kind, path)
    settings = described.settings if isinstance(described, EncoderDescription) else described
    return settings, load_tokenizer(AutoTokenizer, folder / _LANGUAGE_MODEL)
