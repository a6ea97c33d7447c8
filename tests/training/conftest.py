"""A miniature of the mini: every stage in the real order, two steps each, once in a test run."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from tests.launcher import Popen
from tests.shared import shared_folder
from tests.tiny import TINY_MODEL, tiny_model_dir
from tests.training import ranks
from torch import Tensor

from vlv.training.loop import train
from vlv.training.registry import build_stage

__all__ = ["tiny_model_dir"]


@pytest.fixture(autouse=True)
def no_ranks_left() -> Iterator[None]:
    yield
    ranks.end_all()


class Workshop:
    """A folder with tiny configs, and the stages that were run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / "model.yaml").exists():
            (root / "model.yaml").write_text(yaml.safe_dump(TINY_MODEL))
        self._common: dict[str, Any] = {
            "model": "model.yaml",
            "data": {"folder": str(root / "world"), "count": 32, "workers": 1},
            "validation_count": 8,
            # Drawn where a test looks at it: sampling takes as long as the rest of such a run.
            "validation_picture": False,
            "max_train_steps": 2,
            "train_batch_size": 4,
            "learning_rate": 1.0e-3,
            "report_to": "none",
            "num_threads": 1,
        }
        final = {name: str(root / name / "final") for name in ("vae", "t2i", "lm", "s1", "s2")}
        self._own: dict[str, dict[str, Any]] = {
            "vae": {"normalisation_count": 32, "output_dir": str(root / "vae")},
            "text-to-image": {
                "output_dir": str(root / "t2i"),
                "vae": final["vae"] + "/vae",
                "tokenizer_captions": 100,
            },
            "language-model": {"output_dir": str(root / "lm"), "tokenizer_captions": 100},
            "stage1": {"output_dir": str(root / "s1"), "decoder": final["t2i"]},
            "stage2": {
                "output_dir": str(root / "s2"),
                "stage1": final["s1"],
                "language_model": final["lm"] + "/language_model",
                "max_tokens": 96,
            },
            "inspector": {"output_dir": str(root / "inspector")},
        }

    def config(self, stage: str, **changes: Any) -> Path:
        """The YAML file of a stage; `changes` make another file."""
        data = {**self._common, **self._own[stage], **changes}
        if stage == "stage2" and not data.get("fresh_encoder"):
            data.pop("model")
        name = f"{stage}-{abs(hash(repr(sorted(changes.items()))))}-{os.getpid()}.yaml"
        path = self.root / name
        path.write_text(yaml.safe_dump(data))
        return path

    def run(self, stage: str, **changes: Any) -> Path:
        """Train; returns the exported folder."""
        return train(build_stage(stage, self.config(stage, **changes)))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Every stage of the mini, trained for two steps at tiny size.

    Tests in several processes use it at once: each writes to folders that no other names.
    """
    return Workshop(shared_folder(tmp_path_factory, "workshop", run_stages))


def run_stages(root: Path) -> None:
    shop = Workshop(root)
    for stage in ("vae", "text-to-image", "language-model", "stage1", "stage2"):
        shop.run(stage, validation_picture=True)


def weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder, by file and name."""
    return {
        f"{path.relative_to(folder)}:{name}": value
        for path in folder.rglob("*.safetensors")
        for name, value in load_file(path).items()
    }


def kill_while_writing(words: Sequence[str], unfinished: Path) -> None:
    """Run `vlv`, kill it once it has written to a file, and leave a line there that was cut off."""
    command = [sys.executable, "-m", "vlv.cli", *words]
    process = Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (unfinished.is_file() and unfinished.stat().st_size > 0):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert unfinished.is_file()
    with unfinished.open("ab") as file:
        file.write(b'{"index": 9, "capt')


def change_weights(model: Path) -> None:
    """Of the caption decoder of a model folder."""
    path = model / "caption_decoder" / "psi.safetensors"
    save_file({name: 2 * value for name, value in load_file(path).items()}, path)
