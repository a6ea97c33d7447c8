"""Files that are damaged, that run code, or that are large, given to the authors' converter."""

import contextlib
import functools
import importlib
import io
import json
import os
import pickle
import re
import runpy
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from tests.checkpoints.authors_layout import (
    QWEN,
    STORED,
    Parts,
    State,
    authors_state,
    base_parts,
    convert,
    write_safetensors,
    write_shards,
    write_torch,
)
from torch import Tensor

from vlv.errors import CheckpointError


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _rename_in_index(path: Path, wrong: str) -> None:
    index = json.loads(path.read_text())
    index["weight_map"]["mlp.layers.0.weight"] = wrong
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("stored", "file", "damage"),
    [
        ("pt", "model.pt", _cut),
        ("pt", "model.pt", lambda path: path.write_bytes(b"")),
        ("pt", "model.pt", lambda path: path.unlink()),
        ("legacy pt", "model.pt", _cut),
        ("safetensors", "model.safetensors", _cut),
        ("safetensors shards", "model-00002-of-00003.safetensors", _cut),
        ("safetensors shards", "model-00002-of-00003.safetensors", lambda path: path.unlink()),
        ("bin shards", "pytorch_model-00003-of-00003.bin", _cut),
        ("safetensors shards", "model.safetensors.index.json", _cut),
        (
            "safetensors shards",
            "model.safetensors.index.json",
            lambda path: _rename_in_index(path, "model-00009-of-00003.safetensors"),
        ),
        # Neither a checkpoint of stage 1 nor of stage 2.
        ("pt", "model.pt", lambda path: write_torch({"weight": torch.ones(2)}, path)),
        ("pt", "model.pt", lambda path: write_torch([torch.ones(2)], path)),
        ("pt", "model.pt", lambda path: write_torch({"model_state_dict": {}}, path)),
    ],
)
def test_a_damaged_file_is_named(
    stored: str, file: str, damage: Callable[[Path], object], parts: Parts, tmp_path: Path
) -> None:
    source = STORED[stored](authors_state(1, 2), tmp_path / "source")
    damage(tmp_path / "source" / file)
    with pytest.raises(CheckpointError, match=r"source"):
        convert(source, tmp_path / "model", parts)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_an_index_stays_in_its_folder(suffix: str, parts: Parts, tmp_path: Path) -> None:
    state = authors_state(1, 2)
    beyond = {"mlp.layers.0.weight": state.pop("mlp.layers.0.weight")}
    source = write_shards(state, tmp_path / "source", "model", suffix)
    outside = tmp_path / f"outside.{suffix}"
    write = write_torch if suffix == "bin" else write_safetensors
    for place in ("../" + outside.name, str(write(beyond, outside))):
        _rename_in_index(source / f"model.{suffix}.index.json", place)
        with pytest.raises(CheckpointError, match=r"index\.json"):
            convert(source, tmp_path / "model", parts)


FLORENCE = "VLV_model.model.language_model."


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        # A few bytes that claim to be terabytes.
        ("mlp.layers.0.bias", torch.zeros(1).expand(10**12)),
        (f"{FLORENCE}model.shared.weight", torch.zeros(1, 24).expand(10**11, 24)),
        (f"{FLORENCE}final_logits_bias", torch.zeros(1, 1).expand(1, 10**12)),
        ("VLV_model.query_embed", torch.zeros(1, 1, 24).expand(1, 10**11, 24)),
        # Tensors from which sizes are read.
        (f"{FLORENCE}model.shared.weight", torch.tensor(3.0)),
        (f"{FLORENCE}model.decoder.embed_positions.weight", torch.tensor(3.0)),
        ("VLV_model.query_embed", torch.tensor(3.0)),
        ("VLV_model.query_embed", torch.ones(1, 78, 24)),  # the text tower takes 77
        ("qwen2_model.model.embed_tokens.weight", torch.tensor(3.0)),
        # Of the right shape, but no weights.
        ("mlp.layers.0.weight", torch.ones(16, 16, dtype=torch.int8)),
        ("mlp.layers.0.weight", torch.ones(16, 16, dtype=torch.complex64)),
        ("mlp.layers.0.weight", torch.eye(16).to_sparse()),
        ("mlp.layers.0.weight", torch.empty(16, 16, device="meta")),
    ],
)
def test_a_tensor_that_cannot_be_a_weight_is_named(
    name: str, tensor: Tensor, parts: Parts, tmp_path: Path
) -> None:
    source = write_torch({**authors_state(1, 2), name: tensor}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=re.escape(name)):
        convert(source, tmp_path / "model", parts)
    assert not (tmp_path / "model").exists()


class Call:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __call__(self) -> None:
        """Only what can be called may stand as a function in a pickle."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def _by_hand(function: str, argument: str) -> bytes:
    """A pickle that calls `module.function(argument)` under this very name."""
    module, _, name = function.rpartition(".")
    text = argument.encode()
    return (
        b"\x80\x02}X\x06\x00\x00\x00weight"
        + f"c{module}\n{name}\n".encode()
        + b"X" + len(text).to_bytes(4, "little") + text
        + b"\x85Rs."
    )  # fmt: skip


def _zipped(pickled: bytes, path: Path) -> None:
    """PyTorch's zip format around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/version", "3\n")
        archive.writestr("model/byteorder", "little")


def _beside_tensors(call: Call) -> State:
    return {**authors_state(1, 1, with_decoder=False), "extra": cast(Tensor, call)}


def _hooked(call: Call) -> object:
    """A tensor whose backward hooks are the call."""
    storage = torch.ones(4)._typed_storage()
    hooks = OrderedDict([(0, call)])
    return Call(torch._utils._rebuild_tensor_v2, storage, 0, (4,), (1,), False, hooks)


def _pickled(call: Call) -> bytes:
    buffer = io.BytesIO()
    torch.save(call, buffer)
    return buffer.getvalue()


# Each writes a file to `path` that makes the file `mark` when it is unpickled without care.
HOSTILE: dict[str, Callable[[Path, Path], object]] = {
    "os.system": lambda path, mark: _zipped(_by_hand("os.system", f"touch {mark}"), path),
    "posix.system": lambda path, mark: write_torch(Call(os.system, f"touch {mark}"), path),
    "eval": lambda path, mark: write_torch(Call(eval, f"open({str(mark)!r}, 'w')"), path),
    "exec": lambda path, mark: write_torch(Call(exec, f"open({str(mark)!r}, 'w')"), path),
    "getattr": lambda path, mark: write_torch(
        Call(Call(getattr, Call(importlib.import_module, "os"), "system"), f"touch {mark}"), path
    ),
    "subprocess": lambda path, mark: write_torch(
        Call(subprocess.check_call, ["touch", str(mark)]), path
    ),
    "runpy": lambda path, mark: write_torch(
        Call(runpy._run_code, f"open({str(mark)!r}, 'w')", {}), path
    ),
    "reduce": lambda path, mark: write_torch(
        Call(functools.reduce, os.mkdir, [str(mark), 0o700]), path
    ),
    "torch.load of another file": lambda path, mark: (
        write_torch(Call(os.system, f"touch {mark}"), path.with_name("inner")),
        write_torch(
            Call(functools.partial(torch.load, weights_only=False), str(path.with_name("inner"))),
            path,
        ),
    ),
    "bytes of a storage": lambda path, mark: write_torch(
        Call(torch.storage._load_from_bytes, _pickled(Call(os.system, f"touch {mark}"))), path
    ),
    "rebuilt tensor": lambda path, mark: write_torch(
        Call(torch._tensor._rebuild_from_type_v2, os.system, str, (f"touch {mark}",), {}), path
    ),
    "hooks of a tensor": lambda path, mark: write_torch(
        {"query_embed": _hooked(Call(os.system, f"touch {mark}"))}, path
    ),
    "beside tensors": lambda path, mark: write_torch(
        _beside_tensors(Call(os.system, f"touch {mark}")), path
    ),
    "in the optimizer's state": lambda path, mark: write_torch(
        {
            "model_state_dict": authors_state(1, 1),
            "optimizer_state_dict": {"state": [({"step": Call(os.system, f"touch {mark}")},)]},
        },
        path,
    ),
    "as a key": lambda path, mark: write_torch(
        {(1, Call(os.mkdir, str(mark))): torch.ones(2)}, path
    ),
    "legacy": lambda path, mark: write_torch(
        _beside_tensors(Call(os.system, f"touch {mark}")), path, legacy=True
    ),
    "bare pickle": lambda path, mark: path.write_bytes(
        pickle.dumps(Call(os.system, f"touch {mark}"))
    ),
    "text pickle": lambda path, mark: path.write_bytes(
        f"cos\nsystem\n(Vtouch {mark}\ntR.".encode()
    ),
    "protocol 4": lambda path, mark: torch.save(
        {"weight": Call(os.system, f"touch {mark}")}, path, pickle_protocol=4
    ),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_file_that_runs_code_is_refused(hostile: str, parts: Parts, tmp_path: Path) -> None:
    path, mark = tmp_path / "model.pt", tmp_path / "mark"
    HOSTILE[hostile](path, mark)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        convert(path, tmp_path / "model", parts)
    assert not mark.exists()
    assert not (tmp_path / "model").exists()
    # The file is what it says: whoever trusts it runs its code.
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert mark.exists()


def test_a_pickle_is_no_safetensors_file(parts: Parts, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    HOSTILE["beside tensors"](path, tmp_path / "mark")
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        convert(path, tmp_path / "model", parts)
    assert not (tmp_path / "mark").exists()


def test_a_shard_that_runs_code_is_refused(parts: Parts, tmp_path: Path) -> None:
    source = write_shards(authors_state(1, 2), tmp_path / "source", "pytorch_model", "bin")
    HOSTILE["beside tensors"](source / "pytorch_model-00002-of-00003.bin", tmp_path / "mark")
    with pytest.raises(CheckpointError, match=r"pytorch_model-00002-of-00003\.bin"):
        convert(source, tmp_path / "model", parts)
    assert not (tmp_path / "mark").exists()


MEASURED = """
import sys
from pathlib import Path
from vlv.checkpoints.authors.conversion import convert_authors

def status(field):
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if field in x]
    return 1024 * int(line.split()[1])

def convert(source, out):
    encoder, decoder, language_model = sys.argv[3:6]
    convert_authors(
        source, out, encoder=encoder, decoder=decoder, language_model=language_model,
        max_shard_bytes=int(sys.argv[6]),
    )

# Once in small, so that whatever is imported late is there.
convert(sys.argv[1] + "/small", sys.argv[1] + "/small model")
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before = status("VmRSS:")
convert(sys.argv[1] + "/large", sys.argv[2])
print(status("VmHWM:") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "padding"),
    [({"num_hidden_layers": 20, "intermediate_size": 2**16}, 0), ({}, 350_000)],
    ids=["many layers", "many words"],
)
@pytest.mark.parametrize(("stem", "suffix"), [("model", "safetensors"), ("pytorch_model", "bin")])
def test_memory_is_that_of_a_shard(
    stem: str, suffix: str, sizes: dict[str, int], padding: int, tmp_path: Path
) -> None:
    """The most that one conversion takes: a shard that is read and one that is written."""
    qwen = {**QWEN, **sizes}
    state = authors_state(1, 2, vocab_padding=padding, qwen=qwen)
    total = sum(tensor.nbytes for tensor in state.values())
    write_shards(state, tmp_path / "large", stem, suffix, count=5)
    del state
    write_shards(authors_state(1, 1), tmp_path / "small", stem, suffix)
    parts = base_parts(tmp_path / "parts", qwen=qwen)
    largest = max(file.stat().st_size for file in (tmp_path / "large").iterdir())
    written = 40 * 2**20
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path, tmp_path / "model", *parts, str(written)],
        capture_output=True,
        text=True,
        check=True,
    )
    peak = int(ran.stdout)
    for file in (tmp_path / "model").rglob("*.safetensors"):
        assert file.stat().st_size < written + 2**20
    assert total > 1.5 * (1.3 * largest + written)
    assert 0 < peak <= 1.3 * largest + written, (peak, largest, total)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.safetensors.index.json"])
def test_a_pipe_is_not_waited_for(name: str, parts: Parts, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError):
            convert(source, tmp_path / "model", parts)
