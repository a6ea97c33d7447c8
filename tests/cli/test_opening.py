"""What is reported of a model that cannot be opened: one line, exit code 3, at once."""

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.checkpoints.hostile import LM, edit, put
from tests.tiny import plain


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    plain("red").save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("name", ["missing/folder/", "./missing", "/missing/folder", "a/b/c"])
def test_a_path_is_not_asked_for_on_the_hub(
    name: str, picture: Path, vlv: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", None)
    ran = vlv("caption", picture, "--model", name)
    assert (ran.code, ran.err) == (3, f"vlv: There is no file or folder {name}.\n")


@pytest.mark.parametrize("listening", [True, False])
def test_a_hub_that_does_not_answer_is_given_up_soon(
    listening: bool, picture: Path, vlv: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if not listening:
            silent.close()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        begun = time.monotonic()
        ran = vlv("caption", picture, "--model", "someone/some-model")
    # Of a Hub that listens and says nothing, 5 s for one answer.
    assert time.monotonic() - begun < 15
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    assert "'someone/some-model' is no folder here and could not be fetched" in ran.err


@pytest.mark.parametrize(
    "damage",
    [
        edit(
            f"{Path(LM).parent}/tokenizer_config.json", "auto_map", {"AutoTokenizer": ["e.E", None]}
        ),
        edit(LM, "num_hidden_layers", 10**7),
        edit("encoder/vlv_encoder.json", "crop_size", 10**9),
        put("vlv.json", "[" * 100_000 + "]" * 100_000),
        lambda folder: ((folder / "vlv.json").unlink(), os.mkfifo(folder / "vlv.json")),
    ],
)
def test_a_hostile_folder_is_refused(
    damage: Callable[[Path], Any], picture: Path, tiny_model_dir: Path, vlv: Callable[..., Any]
) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, picture.parent / "model"))
    damage(folder)
    ran = vlv("caption", picture, "--model", folder)
    assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1)
    assert ran.err.startswith("vlv: ") and str(folder) in ran.err
