"""A checkpoint in the authors' layout opened as it is: from a file, and from a Hub id."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from tests import launcher
from tests.checkpoints.authors_layout import Parts, authors_state
from tests.checkpoints.hub import AUTHORS, COMMIT, tiny_hub

from vlv.checkpoints.published import revision_of
from vlv.errors import ConfigError
from vlv.pipeline import VLV

CAPTION = f"""
from PIL import Image
from vlv import VLV
model = VLV.from_pretrained("{AUTHORS}")
print(model.caption(Image.new("RGB", (80, 60), "red"), max_new_tokens=5))
"""


def named(parts: Parts) -> dict[str, Path]:
    return dict(zip(("encoder", "decoder", "language_model"), parts, strict=True))


def test_a_file_is_converted_once(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VLV_CACHE", str(tmp_path / "cache"))
    torch.save(authors_state(1, 2), tmp_path / "model.pt")
    first = VLV.from_pretrained(tmp_path / "model.pt", base_models=named(parts))
    assert first.folder is not None
    written = (first.folder / "vlv.json").stat().st_mtime_ns
    again = VLV.from_pretrained(tmp_path / "model.pt", base_models=named(parts))
    assert again.folder == first.folder
    assert (first.folder / "vlv.json").stat().st_mtime_ns == written
    assert caplog.text.count("is converted once") == 1
    # Another checkpoint under the same name is another model.
    torch.save(authors_state(5, 2), tmp_path / "model.pt")
    assert (
        VLV.from_pretrained(tmp_path / "model.pt", base_models=named(parts)).folder != first.folder
    )


def test_the_released_captioner_opens_by_its_id(tmp_path: Path) -> None:
    """Converted by the first process, found by the second."""
    environment = {**os.environ, **tiny_hub(tmp_path), "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        run = launcher.run(
            [sys.executable, "-c", CAPTION], env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith("['")
    (made,) = (tmp_path / "converted").glob("models--*/vlv.json")
    assert made.parent.name.startswith("models--lambertxiao--Vision-Language-Vision")
    parts = json.loads(made.read_text())["provenance"]["parts"]
    assert parts["language_model"] == {
        "id": "Qwen/Qwen2.5-3B",
        "revision": revision_of("language_model", "Qwen/Qwen2.5-3B"),
        "licence": "Qwen Research",
    }
    record = json.loads(made.read_text())["provenance"]["authors_checkpoint"]
    assert record["revision"] == COMMIT


def test_base_models_have_names(parts: Parts, tmp_path: Path) -> None:
    torch.save(authors_state(1, 2), tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="no base model 'vae'; they are encoder, decoder"):
        VLV.from_pretrained(tmp_path / "model.pt", base_models={"vae": parts[1]})
    with pytest.raises(ConfigError, match="vlv-mini holds its base models itself"):
        VLV.from_pretrained("vlv-mini", base_models=named(parts))
