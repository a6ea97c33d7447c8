"""Labels of the sentences of captions of rendered scenes, from what is in the scenes.

    vlv world render --out scenes --count 64
    vlv eval captions scenes --captioner vlv-mini --temperature 1 --num-beams 1 --out sampled.jsonl
    python benchmarks/world_labels.py scenes sampled.jsonl > labels.jsonl
    vlv eval verify scenes --labels labels.jsonl --output marks

A sentence that claims anything false, or that cannot be read, is not factual.
"""

import argparse
import json
import sys
from pathlib import Path

from vlv.data.world_sets import SCENES
from vlv.evaluation.real.captions_file import captions_for, read_captions
from vlv.sentences import split_sentences
from vlv.training.verifier import sentence_truths
from vlv.world.scene import Scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path)
    parser.add_argument("captions", type=Path, nargs="+", help="captions files")
    given = parser.parse_args()
    lines = (given.scenes / SCENES).read_text(encoding="utf-8").splitlines()
    scenes = {record["file_name"]: record["scene"] for record in map(json.loads, lines)}
    for file in given.captions:
        texts = captions_for(read_captions(file), ((name, None) for name in scenes))
        for (name, scene), text in zip(scenes.items(), texts, strict=True):
            if text is None:
                continue
            truths = sentence_truths(text, Scene.from_dict(scene))
            sentences = [
                {"text": one, "factual": true}
                for one, true in zip(split_sentences(text), truths, strict=True)
            ]
            record = {"file_name": name, "captioner": file.stem, "sentences": sentences}
            json.dump(record, sys.stdout, ensure_ascii=False)
            print()


if __name__ == "__main__":
    main()
