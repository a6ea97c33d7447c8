"""The model in lmms-eval, by the part of its interface that a model uses.

`benchmarks/lmms_task/run.py` runs lmms-eval itself.
"""

import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tests.evaluation.real.photographs import photograph

MODULE = "vlv.evaluation.real.lmms"


class Base:
    """What lmms-eval's class of models brings: the documents of each task."""

    task_dict: dict[str, Any]


@pytest.fixture
def warnings() -> list[str]:
    """What is logged."""
    return []


@pytest.fixture
def lmms(monkeypatch: pytest.MonkeyPatch, warnings: list[str]) -> Iterator[ModuleType]:
    """The module of ours, with the names that it imports from lmms-eval."""
    log = ModuleType("loguru")
    monkeypatch.setattr(log, "logger", SimpleNamespace(warning=warnings.append), raising=False)
    instance, model = ModuleType("lmms_eval.api.instance"), ModuleType("lmms_eval.api.model")
    registry = ModuleType("lmms_eval.models.registry_v2")
    monkeypatch.setattr(instance, "Instance", SimpleNamespace, raising=False)
    monkeypatch.setattr(model, "lmms", Base, raising=False)
    monkeypatch.setattr(registry, "ModelManifest", SimpleNamespace, raising=False)
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for one in (log, instance, model, registry):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    yield importlib.import_module(MODULE)
    del sys.modules[MODULE]


def request(document: int, doc_to_visual: Any) -> SimpleNamespace:
    return SimpleNamespace(args=("Describe it.", {}, doc_to_visual, document, "task", "test"))


def test_a_bad_visual_gets_an_empty_caption_and_the_others_go_on(
    lmms: ModuleType, warnings: list[str], tiny_model_dir: Path, tmp_path: Path
) -> None:
    cat, coffee = photograph("chelsea"), photograph("coffee")
    stored = io.BytesIO()
    coffee.save(stored, "png")
    coffee.save(tmp_path / "coffee.png")
    (tmp_path / "clip.mp4").write_bytes(b"no image")
    visuals = {
        "good": [cat],
        "torn": [Image.open(io.BytesIO(stored.getvalue()[:-100]))],
        "none": [],
        "file": [str(tmp_path / "coffee.png")],
        "video": [str(tmp_path / "clip.mp4")],
        "sound": [{"array": [0.0], "sampling_rate": 16_000}],
    }

    def decoded_by_task(document: list[Any]) -> list[Any]:
        return [Image.open(io.BytesIO(b"no image"))]

    model = lmms.VLV(str(tiny_model_dir), batch_size=3, num_beams=1, max_new_tokens=8)
    model.task_dict = {"task": {"test": list(visuals.values())}}
    requests = [request(at, list) for at in range(len(visuals))]
    captions = model.generate_until([request(0, decoded_by_task), *requests])
    assert [bool(text) for text in captions] == [False, True, False, False, True, False, False]
    named = [text.split(" of the task task: ")[0].split()[-1] for text in warnings]
    assert named == ["0", "1", "2", "4", "5"]
