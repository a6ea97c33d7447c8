"""Record what vlv computes, and compare another version of the code with the record, bit for bit.

    python benchmarks/unchanged.py record DIR [--only SECTION ...]
    python benchmarks/unchanged.py compare DIR [--only SECTION ...]

`record` writes the inputs, the results and what later code has to open to DIR; `compare` computes
the results again from the same inputs in a temporary folder, and goes on with the training runs of
the record. It prints what is the same; where something is not, both files are kept and named, and
the exit code is 1. About eight minutes on one core, without a GPU. Results are the same on the same
machine with the same libraries only. Sections run one after the other, each in processes of its
own with one thread.

DIR holds
    input/      scenes to caption, images and shards to train on, images of a bulk job, configs
    results/    a file a result; bytes that are large or binary as their hashes
    runs/       every training run as it is when it is killed after step 10 of 20
    models/     model folders that were saved: the embedded one, and those of training runs
    record.json the machine, the libraries and the commit
"""

import argparse
import hashlib
import json
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
RUNS = Path(__file__).with_name("unchanged_runs.yaml")
REPORT = ROOT / "docs" / "reproduction"


# ---- All that this script imports of vlv; adapt these four when modules move. ----


def boxes(files: Sequence[Path]) -> dict[str, Any]:
    """z, c, latents and denoising losses of images that have the decoder's size."""
    import torch

    from vlv import VLV, load_image

    model = VLV.from_pretrained("vlv-mini")
    images = [load_image(file) for file in files]
    z = model.encode(images)
    c = model.condition(z)
    uncond = model.text_tower.unconditional(len(z), c.tokens.shape[1])
    pixels = torch.stack([torch.from_numpy(np.array(image)) for image in images])
    pixels = pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        mean = model.decoder.encode_images(pixels)
        posterior_noise, noise = (torch.randn(mean.shape, generator=random) for _ in range(2))
        latents = model.decoder.encode_images(pixels, posterior_noise)
        timesteps = ((torch.arange(len(images)) + 0.5) / len(images) * 1000).long()
        rolled = [*range(-1, len(images) - 1)]
        losses = {
            name: model.decoder.denoising_loss(latents, given, noise, timesteps)
            for name, given in {"": c, "_shuffled": c[rolled], "_uncond": uncond}.items()
        }
    arrays = {
        "z": z,
        "c": c.tokens,
        "uncond": uncond.tokens[:1],
        "latents": latents,
        "latents_mean": mean,
    }
    arrays |= {f"denoising_loss{name}": loss for name, loss in losses.items()}
    return {name: tensor.detach().contiguous().numpy() for name, tensor in arrays.items()}


def python_captions(files: Sequence[Path]) -> list[str]:
    """Captions as a notebook gets them."""
    from vlv import VLV, load_image

    return VLV.from_pretrained("vlv-mini").caption([load_image(file) for file in files])


def save_model(folder: Path) -> None:
    """The embedded model as `save_pretrained` writes it."""
    from vlv import VLV

    VLV.from_pretrained("vlv-mini").save_pretrained(folder)


def render_report(source: Path, output: Path) -> None:
    """report.md and report.html of the results that `source` holds."""
    from vlv.evaluation.registry import TABLES
    from vlv.evaluation.report.pages import write_report
    from vlv.evaluation.reproduction import RESULTS, SCENES, Report
    from vlv.evaluation.results import read_result
    from vlv.evaluation.scenes import Scenes

    kept = [source / RESULTS / f"{name}.json" for name in TABLES]
    results = [read_result(path) for path in kept if path.is_file()]
    assert len(results) == len(list((source / RESULTS).glob("*.json"))) > 0
    scenes = json.loads((source / SCENES).with_suffix(".json").read_text("utf-8"))["scenes"]
    # The page embeds the pictures of its scenes.
    shutil.copytree((source / SCENES).parent, (output / SCENES).parent, dirs_exist_ok=True)
    write_report(Report("full", results, Scenes(**scenes), []), output)


# ---- Processes. ----

ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith("VLV_")},
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")},
    "PYTHONPATH": str(ROOT / "src"),
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "100",
}


def run(command: Sequence[str | Path], cwd: Path, codes: Sequence[int] = (0,)) -> str:
    """Standard output of a command; the script ends with its messages where it fails."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True
    )
    if done.returncode not in codes:
        words = " ".join(str(word) for word in command)
        sys.exit(f"{done.stdout}{done.stderr}\nexit code {done.returncode}: {words} (in {cwd})")
    return done.stdout


def vlv(*words: str | Path, cwd: Path, codes: Sequence[int] = (0,)) -> str:
    return run([sys.executable, "-m", "vlv.cli", *words], cwd, codes)


def itself(*words: str | Path, cwd: Path) -> str:
    """One of the functions above, in a process of its own."""
    return run([sys.executable, Path(__file__).resolve(), *words], cwd)


@dataclass(frozen=True)
class Place:
    """A folder with inputs, to which results are written; commands run in it, so that the names
    of files in what they print are the same wherever it is.
    """

    folder: Path
    section: str = ""

    @property
    def input(self) -> Path:
        return self.folder / "input"

    @property
    def results(self) -> Path:
        return self.folder / "results" / self.section

    def path(self, name: str) -> Path:
        path = self.results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, text: str) -> None:
        self.path(name).write_text(text.replace(str(self.folder), "DIR"), "utf-8")

    def vlv(self, *words: str | Path, codes: Sequence[int] = (0,)) -> str:
        return vlv(*words, cwd=self.folder, codes=codes)

    def scenes(self, count: int, start: int = 0) -> list[str]:
        files = sorted((self.input / "scenes").glob("*.png"))[start : start + count]
        assert len(files) == count
        return [str(file.relative_to(self.folder)) for file in files]


# ---- Inputs. ----


def render(place: Place, folder: Path) -> None:
    """Everything that is captioned or trained on, drawn by `vlv world render`."""
    folder.mkdir()

    def scenes(name: str, count: int, *more: str) -> None:
        words = ["--count", str(count), "--workers", "1", *more]
        place.vlv("world", "render", "--out", folder / name, *words)

    scenes("scenes", 200)
    for name in ("images", "bulk"):
        scenes(name, 40, "--seed", "7")
    scenes("shards", 40, "--seed", "8", "--format", "webdataset", "--shard-size", "25")
    scenes("tables", 30, "--seed", "9", "--format", "parquet")
    for path in (folder / "bulk").iterdir():  # images alone
        if path.suffix != ".png":
            path.unlink()
    (folder / "bulk" / "broken.png").write_bytes(b"no image")


def write_configs(folder: Path) -> None:
    """The configs of the training runs, each for itself."""
    facts = yaml.safe_load(RUNS.read_text("utf-8"))
    folder.mkdir()
    (folder / "model.yaml").write_text(yaml.safe_dump(facts["model"]), "utf-8")
    for name, one in facts["runs"].items():
        left_out = set(one.get("leaves_out", []))
        common = {key: value for key, value in facts["common"].items() if key not in left_out}
        config = {"output_dir": name, **common, **one["config"]}
        file = {"stage": one["stage"], "config": config}
        (folder / f"{name}.json").write_text(json.dumps(file, indent=1), "utf-8")
    (folder / "order.json").write_text(json.dumps(list(facts["runs"])), "utf-8")


# ---- Sections. ----


def rendered_scenes(place: Place) -> None:
    with tempfile.TemporaryDirectory() as name:
        render(place, Path(name) / "input")
        place.write("files.hashes", hashes(Path(name) / "input"))


def demo(place: Place) -> None:
    printed = place.vlv("demo", "--out", place.path("demo.png"))
    sentences = [line for line in printed.splitlines() if re.match(r"\d+\. ", line)]
    place.write("captions.txt", "\n".join(sentences))


def captions(place: Place) -> None:
    place.write("greedy.txt", place.vlv("caption", "input/scenes", "--num-beams", "1"))
    place.write("beams.txt", place.vlv("caption", "input/scenes"))
    sampled = ["--temperature", "0.8", "--top-p", "0.9", "--seed", "5"]
    several = [*sampled, "--num-return-sequences", "2", "--json"]
    place.write("sampled.json", place.vlv("caption", *place.scenes(8), *several))


def embeddings(place: Place) -> None:
    files = place.scenes(32)
    out = place.path("z c losses.safetensors")
    place.write("captions in Python.txt", itself("_boxes", out, *files, cwd=place.folder))
    encoded = place.path("encode.safetensors")
    place.vlv("encode", *files, "--out", encoded)
    out = place.path("reconstruct.png")
    place.vlv("reconstruct", files[1], "--out", out, "--num-inference-steps", "10")


def verify(place: Place) -> None:
    place.write("verify.json", place.vlv("verify", *place.scenes(20), "--json"))


def bulk(place: Place) -> None:
    for layout in ("jsonl", "webdataset", "parquet"):
        # The folder's name is the same in both places, and so are the settings in its state.
        output = place.folder / "bulk" / layout
        words = ["bulk", "input/bulk", output, "--output-format", layout, "--num-beams", "1"]
        place.vlv(*words, "--shard-size", "25", "--batch-size", "8", codes=[1])
        state = output / ".vlv-bulk"
        for path in sorted(path for path in state.rglob("*") if path.is_file()):
            if path.name == "lock":  # who works
                continue
            # The hash of lines that are recorded themselves, and may name the folder.
            text = re.sub(r'"lines": "[0-9a-f]{64}"', '"lines": ""', path.read_text("utf-8"))
            name = f"{path.relative_to(state)}{'' if path.suffix else '.txt'}"
            place.write(f"{layout}/state/{name}", text)
        shutil.rmtree(state)
        place.write(f"{layout}/files.hashes", hashes(output))
        if layout == "jsonl":
            place.write("jsonl/metadata.jsonl", (output / "metadata.jsonl").read_text("utf-8"))


def report(place: Place) -> None:
    output = place.folder / "report"
    output.mkdir(exist_ok=True)
    itself("_report", REPORT, output, cwd=place.folder)
    place.write("report.md", (output / "report.md").read_text("utf-8"))
    html = (output / "report.html").read_text("utf-8")
    html = re.sub(r"(?s)<(svg|style|script|head)\b.*?</\1>", " ", html)
    place.write("report as text.md", re.sub(r"<[^>]*>", " ", html))


def training(place: Place) -> None:
    """Every stage whole; then every run once more from a copy that was cut off at half."""
    whole, stopped = place.folder / "whole", place.folder / "stopped"
    order = train_all(place, whole, "trained")
    for name in order:
        cut_off(whole / name, stopped / name)
    shutil.copytree(stopped, place.folder / "runs")
    for name in ("stage1", "stage2", "stage2-from-z"):
        shutil.copytree(whole / name / "final", place.folder / "models" / name)
    train_all(place, stopped, "resumed")
    for name in order:
        left, right = (place.results / kind / name for kind in ("trained", "resumed"))
        place.write(
            f"resumed/{name}/{EQUAL}",
            "\n".join(f"{path}: {verdict}" for path, verdict, _ in compared(left, right)),
        )


def continued(place: Place) -> None:
    """The runs that the record holds, gone on with by the code of today."""
    shutil.copytree(place.folder / "runs", place.folder / "continued")
    train_all(place, place.folder / "continued", "resumed")


def models(place: Place) -> None:
    """Model folders that the record holds, opened by the code of today."""
    for name, count in {"embedded": 40, "stage2": 4, "stage2-from-z": 4}.items():
        words = ["--model", f"models/{name}", "--max-new-tokens", "60"]
        place.write(f"{name} captions.txt", place.vlv("caption", *place.scenes(count), *words))
    marked = place.vlv("verify", *place.scenes(2), "--model", "models/embedded", "--json")
    place.write("embedded verify.json", marked)
    for name in ("embedded", "stage1"):
        words = ["--model", f"models/{name}", "--num-inference-steps", "4"]
        out = place.path(f"{name} reconstruction.png")
        place.vlv("reconstruct", place.scenes(1)[0], "--out", out, *words)


SECTIONS: dict[str, Callable[[Place], None]] = {
    "scenes": rendered_scenes,
    "demo": demo,
    "captions": captions,
    "embeddings": embeddings,
    "verify": verify,
    "bulk": bulk,
    "report": report,
    "training": training,
    "models": models,
}


# ---- Training runs. ----

# Of a resumed run: whether it is the same as if it had not been stopped.
EQUAL = "as if not stopped.txt"
# Differ from run to run, or say where and with what it ran.
_TIMES = {
    *("samples_per_second", "tokens_per_second", "hours", "elapsed_seconds", "seconds", "phases"),
    *("config", "code_version", "device", "torch", "threads"),
}


def train_all(place: Place, folder: Path, results: str) -> list[str]:
    """Train, or go on with, every run in `folder`; what comes out goes to `results`."""
    folder.mkdir(exist_ok=True)
    if not (folder / "input").exists():
        (folder / "input").symlink_to(place.input)
    configs = place.input / "configs"
    order: list[str] = json.loads((configs / "order.json").read_text("utf-8"))
    shutil.copy2(configs / "model.yaml", folder)
    commands = []
    for name in order:
        facts = json.loads((configs / f"{name}.json").read_text("utf-8"))
        config = folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump(facts["config"]), "utf-8")
        commands.append(["train", facts["stage"], "--config", config.name])
    # Most of the time of such short runs would be the start of a process.
    itself("_vlv", json.dumps(commands), cwd=folder)
    for name in order:
        collect(place, folder / name, f"{results}/{name}")
    return order


def run_commands(commands: Sequence[Sequence[str]]) -> None:
    """Several commands of vlv, one after the other in this process."""
    for words in commands:
        sys.argv = ["vlv", *words]
        try:
            runpy.run_module("vlv.cli", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code not in (None, 0):
                raise


def collect(place: Place, run_folder: Path, results: str) -> None:
    """Losses of all steps, figures of validation, and hashes of weights and pictures of a run."""
    for path in sorted(run_folder.rglob("*.jsonl")):
        lines = path.read_text("utf-8").splitlines()
        kept = [json.dumps(without(json.loads(line))) for line in lines]
        place.write(f"{results}/{path.relative_to(run_folder)}", "\n".join(kept))
    for path in sorted(run_folder.rglob("final/run.json")):
        kept = json.dumps(without(json.loads(path.read_text("utf-8"))), indent=1)
        place.write(f"{results}/{path.relative_to(run_folder)}", kept)
    weights = sorted([*run_folder.rglob("final/**/*.safetensors"), *run_folder.rglob("*-20/*.s*")])
    lines = [f"{tensors_hash(path)}  {path.relative_to(run_folder)}" for path in weights]
    place.write(f"{results}/weights.hashes", "\n".join(sorted(lines)))
    pictures = sorted(run_folder.rglob("*.png"))
    if pictures:
        lines = [f"{file_hash(path)}  {path.relative_to(run_folder)}" for path in pictures]
        place.write(f"{results}/pictures.hashes", "\n".join(sorted(lines)))


def without(facts: Any) -> Any:
    if not isinstance(facts, dict):
        return facts
    return {key: without(value) for key, value in facts.items() if key not in _TIMES}


def cut_off(whole: Path, stopped: Path) -> None:
    """A copy of a run as SIGKILL leaves it after step 10; of self-training, after step 10 of its
    last round.
    """
    shutil.copytree(whole, stopped)
    last = max(stopped.rglob("checkpoint-20"))
    for folder in (last, last.parent / "final", stopped / "final"):
        shutil.rmtree(folder, ignore_errors=True)
    metrics = last.parent / "metrics.jsonl"
    lines = metrics.read_text("utf-8").splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if json.loads(line)["step"] <= 10), "utf-8")
    for path in last.parent.rglob("step-20.png"):
        path.unlink()


# ---- Hashes. ----


def hashes(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "\n".join(f"{file_hash(path)}  {path.relative_to(folder)}" for path in files)


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def tensors_hash(path: Path) -> str:
    """Of the numbers in a safetensors file, whatever their names."""
    found = []
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118  (it is no dict)
            tensor = file.get_tensor(key).contiguous()
            content = tensor.view(-1).view(dtype=_byte()).numpy().tobytes()
            facts = f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + content
            found.append(hashlib.sha256(facts).hexdigest())
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()[:32]


def _byte() -> Any:
    import torch

    return torch.uint8


# ---- Comparison. ----

SAME, WORDS, OTHER = "same", "same numbers, other words", "DIFFERENT"
# Numbers that stand alone, not those in names and versions.
_NUMBER = re.compile(r"(?<![\w.-])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\w)")


def kept_hashes(text: str) -> list[str]:
    """Hashes of files, whose names may change, and with them their order."""
    return sorted(line.partition(" ")[0] for line in text.splitlines())


def kept_values(text: str) -> list[Any]:
    """Numbers and sentences of JSON, or of lines of it; names and single words may change."""
    try:
        facts = [json.loads(text)]
    except json.JSONDecodeError:
        facts = [json.loads(line) for line in text.splitlines()]
    return list(_leaves(facts))


def _leaves(facts: Any) -> Iterator[Any]:
    if isinstance(facts, dict | list):
        for value in facts.values() if isinstance(facts, dict) else facts:
            yield from _leaves(value)
    elif not isinstance(facts, str) or " " in facts:
        yield facts


# What has to stay in files whose words may change.
KEPT: dict[str, Callable[[str], list[Any]]] = {
    ".hashes": kept_hashes,
    ".json": kept_values,
    ".jsonl": kept_values,
    ".md": _NUMBER.findall,
}


def compared(then: Path, now: Path) -> Iterator[tuple[str, str, str]]:
    """Name, verdict and note of every file that one of two folders holds."""
    files = {path.relative_to(top) for top in (then, now) for path in top.rglob("*")}
    for file in sorted(files):
        left, right = then / file, now / file
        if left.is_dir() or right.is_dir():
            continue
        if not left.is_file() or not right.is_file():
            yield str(file), OTHER, f"missing {'then' if right.is_file() else 'now'}"
            continue
        yield (str(file), *verdict(left, right))


def verdict(then: Path, now: Path) -> tuple[str, str]:
    if then.read_bytes() == now.read_bytes():
        return SAME, ""
    if then.suffix == ".safetensors":
        return arrays_verdict(load_file(then), load_file(now))
    if then.suffix == ".png":
        return OTHER, "other bytes"
    left, right = (path.read_text("utf-8") for path in (then, now))
    keep = KEPT.get(then.suffix, str.splitlines)
    values, others = keep(left), keep(right)
    if values == others and then.suffix in KEPT:
        return WORDS, ""
    changed = sum(a != b for a, b in zip(values, others, strict=False))
    return OTHER, f"{changed} of {len(values)} values; there are {len(others)} now"


def arrays_verdict(then: dict[str, Any], now: dict[str, Any]) -> tuple[str, str]:
    if then.keys() != now.keys():
        return OTHER, f"{sorted(then)}, and now {sorted(now)}"
    changed = [
        f"{name} by {np.abs(then[name] - now[name]).max():.3g}"
        if then[name].shape == now[name].shape
        else f"{name} has another shape"
        for name in then
        if then[name].tobytes() != now[name].tobytes() or then[name].shape != now[name].shape
    ]
    return (OTHER, ", ".join(changed)) if changed else (WORDS, "names in the file's header")


def print_table(rows: Sequence[tuple[str, str, str]]) -> bool:
    """The rows with folders of many files as one where they are all the same."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        parts = Path(row[0]).parts
        groups.setdefault("/".join(parts[:-1]) if len(parts) > 2 else row[0], []).append(row)
    lines = [("what", "result", "")]
    for name, group in groups.items():
        if all(one[1] == SAME for one in group):
            lines.append((name + (f" ({len(group)} files)" if len(group) > 1 else ""), SAME, ""))
        else:
            lines += group
    width = max(len(line[0]) for line in lines)
    for what, result, note in lines:
        print(f"{what:{width}}  {result}{f': {note}' if note else ''}")
    counts = {kind: sum(row[1] == kind for row in rows) for kind in (SAME, WORDS, OTHER)}
    print("\n" + "; ".join(f"{count} files {kind}" for kind, count in counts.items()))
    return counts[OTHER] == 0


# ---- The two commands. ----


def work(place: Place, name: str, section: Callable[[Place], None]) -> None:
    start, before = time.perf_counter(), os.times()
    section(replace(place, section=name))
    wall, after = time.perf_counter() - start, os.times()
    processor = sum(after[2:4]) - sum(before[2:4])  # of processes that have ended
    print(f"{name}: {wall:.0f} s, {processor:.0f} s of the processor", flush=True)


def record(folder: Path, sections: dict[str, Callable[[Place], None]]) -> None:
    place, file = Place(folder), folder / "record.json"
    if not file.exists():
        folder.mkdir(parents=True)
        render(place, place.input)
        write_configs(place.input / "configs")
        itself("_save", folder / "models" / "embedded", cwd=folder)
    done = json.loads(file.read_text("utf-8"))["sections"] if file.exists() else []
    if again := [name for name in sections if name in done]:
        sys.exit(f"{folder} holds {', '.join(again)} already; remove it to record anew.")
    for name, section in sections.items():
        work(place, name, section)
        done.append(name)
        facts = {"commit": run(["git", "rev-parse", "HEAD"], ROOT).strip(), "sections": done}
        facts |= {"machine": platform.platform(), "python": platform.python_version()}
        facts |= {name: version(name) for name in ("torch", "transformers", "diffusers", "numpy")}
        file.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    for name in ("whole", "stopped", "bulk", "report"):
        shutil.rmtree(folder / name, ignore_errors=True)


def compare(folder: Path, sections: dict[str, Callable[[Place], None]]) -> bool:
    facts = json.loads((folder / "record.json").read_text("utf-8"))
    sections = {name: section for name, section in sections.items() if name in facts["sections"]}
    again = Path(tempfile.mkdtemp(prefix="unchanged-"))
    place = Place(again)
    shutil.copytree(folder / "input", again / "input")
    for name, section in sections.items():
        if name == "models":  # those of then
            shutil.rmtree(again / "models", ignore_errors=True)
            shutil.copytree(folder / "models", again / "models")
        work(place, name, section)
    if "training" in sections:
        shutil.rmtree(again / "runs")
        shutil.copytree(folder / "runs", again / "runs")
        work(place, "continued", continued)
    then, now = folder / "results", again / "results"
    pairs = {name: (then / name, now / name) for name in sections}
    if "training" in sections:
        # What the code of then made of runs that were stopped, and what today's makes of the same.
        pairs["continued"] = (then / "training" / "resumed", now / "continued" / "resumed")
    rows = [
        (f"{name}/{file}", *rest)
        for name, (left, right) in pairs.items()
        for file, *rest in compared(left, right)
        if not (name == "continued" and Path(file).name == EQUAL)
    ]
    print()
    unchanged = print_table(rows)
    if unchanged:
        shutil.rmtree(again)
    else:
        print(f"\nThe results of now are in {now}, those of then in {then}.")
    return unchanged


def main() -> None:
    match sys.argv[1:]:  # in processes that this script starts
        case ["_boxes", output, *files]:
            paths = [Path(file) for file in files]
            save_file(boxes(paths), output)
            return print("\n".join(python_captions(paths)))
        case ["_vlv", commands]:
            return run_commands(json.loads(commands))
        case ["_save", folder]:
            return save_model(Path(folder))
        case ["_report", source, output]:
            return render_report(Path(source), Path(output))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    options = parser.parse_args()
    sections = {name: section for name, section in SECTIONS.items() if name in options.only}
    if options.command == "record":
        record(options.folder.absolute(), sections)
    elif not compare(options.folder.absolute(), sections):
        sys.exit(1)


if __name__ == "__main__":
    main()
