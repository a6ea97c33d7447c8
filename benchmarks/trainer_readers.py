"""Reads caption files with the code of the trainers themselves.

    python benchmarks/trainer_readers.py SOURCES ONE THREE

SOURCES holds checkouts called sd-scripts, musubi-tuner, mgds (OneTrainer's), ai-toolkit and
SimpleTuner. ONE holds images that `vlv caption --output-format txt` captioned, THREE the same with
`--num-return-sequences 3`. Of each checkout one function or class is cut out and run, so that none
of its dependencies is needed. Prints a line for each, and exits with 1 if one reads something else.
"""

import ast
import glob
import json
import logging
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional, Union

Captions = dict[str, list[str]]
Check = Callable[[Path, Path, Captions], bool]


def cut(file: Path, *names: str) -> tuple[Any, dict[str, Any]]:
    """The function of these nested names, and the namespace that it runs in."""
    node: ast.AST = ast.parse(file.read_text(encoding="utf-8"))
    for name in names:
        node = next(
            one
            for one in ast.walk(node)
            if isinstance(one, ast.FunctionDef | ast.ClassDef) and one.name == name
        )
    assert isinstance(node, ast.FunctionDef)
    node.decorator_list = []
    namespace: dict[str, Any] = {
        "os": os,
        "glob": glob,
        "json": json,
        "logger": logging.getLogger(),
        "Optional": Optional,
        "Union": Union,
    }
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module([*future, node], []), str(file), "exec"), namespace)
    return namespace[names[-1]], namespace


def captions_of(folder: Path) -> Captions:
    """The lines of each caption file, by image."""
    return {
        str(image): image.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
        for image in sorted(folder.glob("*.png"))
    }


def sd_scripts(sources: Path, folder: Path, captions: Captions) -> bool:
    """The first line, or with wildcards all lines."""
    read, _ = cut(sources / "sd-scripts" / "library" / "train_util.py", "read_caption")
    return all(
        read(image, ".txt", False) == lines[0] and read(image, ".txt", True).split("\n") == lines
        for image, lines in captions.items()
    )


def musubi_tuner(sources: Path, folder: Path, captions: Captions) -> bool:
    """The whole file."""
    sys.modules.update(cv2=types.ModuleType("cv2"), av=types.ModuleType("av"))
    sys.path.insert(0, str(sources / "musubi-tuner" / "src"))
    from musubi_tuner.dataset.datasources import (  # type: ignore[import-not-found]
        ImageDirectoryDatasource,
    )

    found = ImageDirectoryDatasource(str(folder), caption_extension=".txt")
    read = dict(found.get_caption(at) for at in range(len(found)))
    return read == {image: "\n".join(lines) for image, lines in captions.items()}


def one_trainer(sources: Path, folder: Path, captions: Captions) -> bool:
    """A caption a line."""
    sys.path.insert(0, str(sources / "mgds" / "src"))
    from mgds.pipelineModules.LoadMultipleTexts import (  # type: ignore[import-not-found]
        LoadMultipleTexts,
    )

    def read(image: str) -> list[str]:
        module = LoadMultipleTexts("path", "texts")
        module._get_previous_item = lambda *_: str(Path(image).with_suffix(".txt"))
        texts: list[str] = module.get_item(0, 0)["texts"]
        return texts

    return all(read(image) == lines for image, lines in captions.items())


def simple_tuner(sources: Path, folder: Path, captions: Captions) -> bool:
    """A caption a line."""
    file = sources / "SimpleTuner" / "simpletuner" / "helpers" / "prompts.py"
    read, _ = cut(file, "prepare_instance_prompt_from_textfile")
    store = SimpleNamespace(exists=os.path.exists, read=lambda path: Path(path).read_bytes())
    return all(read(image, True, False, store) == lines for image, lines in captions.items())


def ai_toolkit(sources: Path, folder: Path, captions: Captions) -> bool:
    """The whole file, with the end of its last line."""
    file = sources / "ai-toolkit" / "toolkit" / "dataloader_mixins.py"
    load, namespace = cut(file, "load_caption")
    namespace["clean_caption"], _ = cut(file, "clean_caption")

    def read(image: str) -> str:
        settings = SimpleNamespace(
            caption_ext=".txt", default_caption=None, diff_output_preservation=False
        )
        item = SimpleNamespace(
            path=image, raw_caption=None, raw_caption_short=None, dataset_config=settings
        )
        item.get_caption = lambda **_: item.raw_caption
        load(item, None)
        return str(item.raw_caption)

    return all(read(image).strip() == "\n".join(lines) for image, lines in captions.items())


CHECKS: dict[str, Check] = {
    "sd-scripts": sd_scripts,
    "musubi-tuner": musubi_tuner,
    "OneTrainer (mgds)": one_trainer,
    "SimpleTuner": simple_tuner,
    "ai-toolkit": ai_toolkit,
}


def main() -> None:
    """Run all checks on both folders."""
    sources, *folders = map(Path, sys.argv[1:])
    wrong = 0
    for name, check in CHECKS.items():
        for folder in folders:
            right = check(sources, folder, captions_of(folder))
            wrong += not right
            print(f"{name:20} {folder.name:10} {'the same' if right else 'OTHERWISE'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
