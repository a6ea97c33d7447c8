"""`vlv doctor` and `vlv models`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vlv.checkpoints import hub
from vlv.cli import doctor
from vlv.version import __version__


@pytest.fixture
def a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights of known size in the place of the embedded model."""
    for part, size in (
        ("encoder", 1000),
        ("text_tower", 200),
        ("unet", 30),
        ("caption_decoder", 4),
    ):
        (tmp_path / part).mkdir()
        save_file({"w": torch.zeros(size, dtype=torch.float16)}, tmp_path / part / "a.safetensors")
    (tmp_path / "vlv.json").write_text("{}")
    monkeypatch.setattr(hub, "EMBEDDED", {"vlv-mini": tmp_path})
    return tmp_path


def test_models_measures_the_embedded_model(a_model: Path, vlv: Callable) -> None:
    ran = vlv("models", "--json")
    mini, authors = json.loads(ran.out)
    assert mini["id"] == "vlv-mini"
    assert mini["available"]
    assert mini["parameters"] == 1234
    assert mini["caption_bytes"] == 4 * 1204
    assert mini["picture_bytes"] == 4 * 1230
    assert mini["disk_bytes"] == sum(f.stat().st_size for f in a_model.rglob("*") if f.is_file())
    assert authors["id"].startswith("lambertxiao/")
    assert not authors["available"]


def test_models_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vlv: Callable
) -> None:
    monkeypatch.setitem(hub.EMBEDDED, "vlv-mini", tmp_path)
    ran = vlv("models")
    assert ran.code == 0
    assert "vlv-mini" in ran.out
    assert "no vlv.json" in ran.out
    assert "Apache-2.0" in ran.out


@pytest.mark.slow
def test_models_counts_published_parts_at_full_size(vlv: Callable) -> None:
    counted = json.loads(vlv("models", "--sizes", "--json").out)["combinations"]
    (paper,) = [
        one
        for one in counted
        if one["language_model"] == "Qwen/Qwen2.5-3B"
        and one["encoder"].endswith("large")
        and one["decoder"].endswith("2-1-base")
    ]
    # Florence-2-large, SD 2.1's text encoder, U-Net and VAE, Qwen2.5-3B; queries, phi and psi.
    assert paper["parameters"] == pytest.approx(5.15e9, rel=0.005)
    assert paper["caption_bytes"]["bfloat16"] * 2 == paper["caption_bytes"]["float32"]
    assert "Florence-2-base" in vlv("models", "--sizes").out


def test_doctor_reports_this_machine(a_model: Path, vlv: Callable) -> None:
    ran = vlv("doctor", "--json")
    report = json.loads(ran.out)
    assert report["vlv"] == __version__
    assert report["devices"][0]["device"] == "cpu"
    assert report["devices"][0]["auto"] in ("bfloat16", "float32")
    assert 0 < report["memory"]["available"] <= report["memory"]["total"]
    assert report["threads"]["torch"] == torch.get_num_threads()
    assert report["models"]["vlv-mini"]["folder"] == str(a_model)
    assert ran.code == (1 if report["problems"] else 0)


def test_doctor_names_a_model_that_does_not_resolve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vlv: Callable
) -> None:
    monkeypatch.setenv("VLV_MODEL", str(tmp_path))
    ran = vlv("doctor")
    assert ran.code == 1
    assert f"problem: the model {tmp_path} cannot be used" in ran.out


def test_doctor_tells_ids_from_folders_that_are_not_there(
    a_model: Path, monkeypatch: pytest.MonkeyPatch, vlv: Callable
) -> None:
    monkeypatch.setenv("VLV_MODEL", "/no/such/folder")
    ran = vlv("doctor")
    assert ran.code == 1
    assert "problem: the model /no/such/folder cannot be used: it is no folder here" in ran.out
    monkeypatch.setenv("VLV_MODEL", "owner/name-1.5")
    models = json.loads(vlv("doctor", "--json").out)["models"]
    assert models["owner/name-1.5"]["note"] == "an id on the Hub"
    monkeypatch.setenv("VLV_MODEL", "")
    assert list(json.loads(vlv("doctor", "--json").out)["models"]) == ["vlv-mini"]


def test_doctor_works_where_torch_and_psutil_are_missing(
    a_model: Path, monkeypatch: pytest.MonkeyPatch, vlv: Callable
) -> None:
    for name in ("torch", "psutil"):
        monkeypatch.setitem(sys.modules, name, None)
    real = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: None if name in ("torch", "psutil") else real(name)
    )
    ran = vlv("doctor")
    assert ran.code == 1
    assert "problem: torch is missing" in ran.out and "problem: psutil is missing" in ran.out
    report = json.loads(vlv("doctor", "--json").out)
    assert [one["device"] for one in report["devices"]] == ["cpu"]
    assert (report["memory"], report["threads"]["torch"]) == (None, None)


def test_doctor_names_missing_and_outdated_packages(
    a_model: Path, monkeypatch: pytest.MonkeyPatch, vlv: Callable
) -> None:
    needs = ["torch>=2.6", "transformers>=999", "no-such-package", 'pyarrow; extra == "data"']
    needs += ['no-such-extra-package; extra == "data"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: needs)
    monkeypatch.setattr(doctor.metadata, "metadata", lambda name: _Provides())
    versions = {"vlv": "1", "torch": "2.13.0", "transformers": "5.0", "pyarrow": "20"}
    monkeypatch.setattr(doctor, "_version", versions.get)
    report = json.loads(vlv("doctor", "--json").out)
    assert report["problems"] == [
        "transformers 5.0; vlv needs transformers>=999",
        "no-such-package is missing; vlv needs no-such-package",
    ]
    assert report["extras"] == {"data": ["no-such-extra-package"]}


class _Provides:
    def get_all(self, name: str) -> list[str]:
        return ["data"]
