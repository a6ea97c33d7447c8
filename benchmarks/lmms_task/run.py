"""lmms-eval itself with a model of ours, on a task of three images.

    python benchmarks/lmms_task/run.py [--folder FOLDER]

Installs lmms-eval into a folder of its own, without those of its dependencies that captions need
not, so that nothing of this environment changes. Of the captions one is expected as vlv-mini
writes it, one is not, and one image is damaged: lmms-eval has to report a third.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = (
    *("lmms-eval==0.7.3", "aiohappyeyeballs", "aiohttp", "aiosignal", "attrs", "dataproperty"),
    *("evaluate", "frozenlist", "hf_transfer", "jsonlines", "loguru", "mbstrdecoder", "multidict"),
    *("numexpr", "pathvalidate", "portalocker", "propcache", "pytablewriter", "python-dotenv"),
    *("pytz", "sacrebleu", "sqlitedict", "tabledata", "tabulate", "tcolorpy", "tqdm-multiprocess"),
    *("typepy", "yarl", "zstandard", "wandb==0.25.0", "gitpython", "gitdb", "smmap", "sentry-sdk"),
    *("chardet", "lxml", "pybind11", "click"),
)
# As the installed package has it; a checkout that is only on the path has none.
ENTRY_POINT = "[lmms_eval.models]\nvlv = vlv.evaluation.real.lmms:manifest\n"


def installed(folder: Path) -> Path:
    """The folder with lmms-eval and the entry point of ours."""
    packages = folder / "packages"
    if not packages.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", packages]
        subprocess.run([*pip, *PACKAGES], check=True)
    info = packages / "vlv_entry-0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vlv-entry\nVersion: 0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINT)
    return packages


def write_task(folder: Path) -> None:
    """Two scenes, the first with the caption of vlv-mini, and a damaged file."""
    for file in ("task.py", "three_images.yaml"):
        shutil.copy(HERE / file, folder)
    vlv = [sys.executable, "-m", "vlv.cli"]
    scenes, captions = folder / "scenes", folder / "captions.jsonl"
    subprocess.run([*vlv, "world", "render", "--out", scenes, "--count", "2"], check=True)
    command = [*vlv, "eval", "captions", scenes, "--captioner", "vlv-mini", "--out", captions]
    subprocess.run(command, check=True)
    first, second = map(json.loads, captions.read_text().splitlines())
    damaged = scenes / "damaged.png"
    damaged.write_bytes(b"no image")
    rows = [
        {"image": str(scenes / first["file_name"]), "text": first["text"]},
        {"image": str(scenes / second["file_name"]), "text": "Another caption."},
        {"image": str(damaged), "text": first["text"]},
    ]
    (folder / "three_images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keeps the packages for another run")
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        packages = installed((given or Path(temporary)).resolve())
        path = os.pathsep.join([str(ROOT / "src"), str(packages)])
        os.environ |= {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        task = Path(temporary) / "task"
        task.mkdir()
        write_task(task)
        command = [sys.executable, "-m", "lmms_eval", "--model", "vlv", "--batch_size", "2"]
        command += ["--model_args", "pretrained=vlv-mini", "--tasks", "three_images"]
        command += ["--include_path", ".", "--output_path", "out"]
        subprocess.run(command, cwd=task, check=True)
        (file,) = task.glob("out/**/*_results.json")
        value = json.loads(file.read_text())["results"]["three_images"]["same,none"]
    assert abs(value - 1 / 3) < 1e-6, value
    print(f"lmms-eval reports {value:.4f}, as expected")


if __name__ == "__main__":
    main()
