"""FID by Inception as torch-fidelity has it, with random weights and without torchvision.

VLV_TORCH_FIDELITY names a folder with the package, as .ci/nightly makes it. Installed, it would
bring torchvision, and a top-level package `tests` that is taken for ours.
"""

import ast
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.real.photographs import CAPTIONS, photograph

from vlv.errors import CheckpointError
from vlv.evaluation.metrics.frechet import fid
from vlv.evaluation.metrics.image_networks import INCEPTION, INCEPTION_SIDE, open_network
from vlv.evaluation.metrics.libraries import inception_class
from vlv.evaluation.metrics.statistics import Array
from vlv.evaluation.results import read_result
from vlv.models.preprocessing import square_crop

pytestmark = pytest.mark.slow
PICTURES = [photograph(name) for name in CAPTIONS]


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The library's network with random weights, and the file of these weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(os.environ["VLV_TORCH_FIDELITY"])
        kind = inception_class()
        assert "torch_fidelity" not in sys.modules and "torchvision" not in sys.modules
        # It reads weights whenever it is made.
        patch.setattr(kind, "load_state_dict", lambda *_: None)
        module = sys.modules[kind.__module__]
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        torch.manual_seed(0)
        network = kind(INCEPTION, ["2048"])
    file = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(network.state_dict(), file)
    return network, file


def library_fid(a: Array, b: Array) -> float:
    """By torch-fidelity's own functions; their module imports torchvision for others."""
    names = ("fid_features_to_statistics", "fid_statistics_to_metric")
    source = Path(os.environ["VLV_TORCH_FIDELITY"]) / "torch_fidelity" / "metric_fid.py"
    tree = ast.parse(source.read_text())
    tree.body = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name in names]
    known: dict[str, Any] = {"np": np, "torch": torch, "KEY_METRIC_FID": "fid"}
    known["vprint"] = lambda *_: None
    exec(compile(tree, str(source), "exec"), known)
    both = [known[names[0]](torch.from_numpy(one)) for one in (a, b)]
    return float(known[names[1]](*both, False)["fid"])


def test_its_features_are_the_librarys(inception: tuple[Any, Path]) -> None:
    library, weights = inception
    found = open_network(INCEPTION, "cpu", weights).features(PICTURES)
    squares = np.stack([np.asarray(square_crop(one, INCEPTION_SIDE)) for one in PICTURES])
    (expected,) = library(torch.from_numpy(squares).permute(0, 3, 1, 2))
    assert found.shape == (6, 2048)
    assert found == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)


def test_fid_is_the_librarys() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 64)), 0.4 + rng.normal(size=(200, 64)) ** 2
    assert fid(a, b) == pytest.approx(library_fid(a, b), abs=1e-3)


def test_other_files_are_refused(inception: tuple[Any, Path], tmp_path: Path) -> None:
    weights = tmp_path / "other.pth"
    for content in ({"fc.bias": torch.zeros(3)}, {"fc.bias": Image.new("RGB", (1, 1))}):
        torch.save(content, weights)
        with pytest.raises(CheckpointError, match="no weights of FID's Inception"):
            open_network(INCEPTION, "cpu", weights)


def test_the_command_measures_fid(
    vlv: Callable[..., Any], inception: tuple[Any, Path], coco: Path, sd2_dir: Path, tmp_path: Path
) -> None:
    command = ("eval", "coco-fid", coco, "--pipeline", sd2_dir, "--out", tmp_path / "out")
    command += ("--num-inference-steps", 1, "--guidance-scale", 2, "--resamples", 1)
    ran = vlv(*command, "--inception-weights", inception[1])
    assert ran.code == 0, ran.err
    result = read_result(tmp_path / "out" / "coco-fid.json")
    assert set(result.rows[0].figures) == {"fid", "kid", "unfit"}
    assert result.rows[0].figures["fid"].value > 0 and "FID is biased" in " ".join(result.notes)
    assert result.provenance["features"]["network"] == INCEPTION
