"""What is told of a model that cannot be opened: one line, exit code 3, at once."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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
def test_a_hub_that_does_not_answer_is_given_up_soon(listening: bool, picture: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if not listening:
            silent.close()
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HUB_CACHE": str(picture.parent / "hub"),
        }
        begun = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", "vlv.cli", "caption", picture, "--model", "someone/some-model"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    # Most of it is Python's own start; five tries took a minute and more.
    assert time.monotonic() - begun < 40
    assert ran.returncode == 3
    assert ran.stderr.count("\n") == 1
    assert "'someone/some-model' is no folder here and could not be fetched" in ran.stderr
