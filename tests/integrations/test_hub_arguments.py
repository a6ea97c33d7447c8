"""How files come from the Hub is what users of transformers and diffusers say: with which token,
of which revision, into which cache, and whether anything is asked at all.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integrations.hub_server import COMMITS, NAME, TOKEN, private_hub
from tests.tiny import CAPTIONS, plain, tiny_model_dir
from transformers import AutoModel, AutoProcessor, pipeline

from vlv import VLV, VLVPipeline
from vlv.errors import CheckpointError, ConfigError

__all__ = ["tiny_model_dir"]


def piped(name: str, *, cache_dir: Path, **options: Any) -> Any:
    """`pipeline` takes the cache among the arguments of the model."""
    made = pipeline("image-text-to-text", name, model_kwargs={"cache_dir": cache_dir}, **options)
    return made(plain("red"), text="")


DOORS: list[Callable[..., Any]] = [
    VLV.from_pretrained,
    AutoModel.from_pretrained,
    AutoProcessor.from_pretrained,
    VLVPipeline.from_pretrained,
    piped,
]


@pytest.fixture(scope="module")
def asked(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with private_hub(tiny_model_dir, tmp_path_factory.mktemp("usual")) as paths:
        yield paths


@pytest.mark.parametrize("door", DOORS)
def test_a_private_model_opens_with_the_arguments_of_the_library(
    door: Callable[..., Any], asked: list[str], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"revision": "v1", "cache_dir": tmp_path}
    with pytest.raises((CheckpointError, OSError)):
        door(NAME, **options)
    door(NAME, token=TOKEN, **options)
    (snapshot,) = tmp_path.glob("models--me--private/snapshots/*")
    assert snapshot.name == COMMITS["v1"] and (snapshot / "vlv.json").is_file()
    asked.clear()
    door(NAME, local_files_only=True, **options)
    assert asked == []


@pytest.mark.parametrize("door", DOORS[:4])
def test_files_are_fetched_again_if_that_is_asked_for(
    door: Callable[..., Any], asked: list[str], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"cache_dir": tmp_path, "token": TOKEN}
    door(NAME, **options)
    for again in (False, True):
        asked.clear()
        door(NAME, force_download=again, **options)
        assert any(path.endswith("psi.safetensors") for path in asked) is again


def test_what_was_never_fetched_is_not_opened_without_the_hub(
    asked: list[str], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"cache_dir": tmp_path, "token": TOKEN}
    asked.clear()
    with pytest.raises(CheckpointError, match="local_files_only is set"):
        VLV.from_pretrained(NAME, local_files_only=True, **options)
    assert asked == []
    with pytest.raises(ConfigError, match="leave one of them out"):
        VLV.from_pretrained(NAME, local_files_only=True, force_download=True)
    opened = VLV.from_pretrained(NAME, **options)
    assert opened.caption(plain("red")) == [CAPTIONS["red"]]
