"""What a fine-tune of the mini learns from photographs, and whether the pictures play a part in it.

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
    python benchmarks/finetune_photos.py split stamps/usr/share/tuxpaint/stamps sets
    vlv finetune vlv-mini sets/photos --out mine
    vlv finetune vlv-mini sets/photos --out full --full
    python benchmarks/finetune_photos.py loss sets/held vlv-mini mine full

`split` draws 60 pictures to fine-tune on and 150 others, each with the first line of its text,
which is the English one. `loss` prints the loss of a token of the 150 captions, given the picture,
and given the picture before it instead: a model that sees something in pictures has a lower first
one.
"""

import argparse
import random
import shutil
from pathlib import Path

import torch

from vlv import VLV, load_image

HELD_OUT, LEARNED = 150, 60


def split(stamps: Path, out: Path) -> None:
    """Write the two folders."""
    found = [
        path
        for path in sorted(stamps.rglob("*.png"))
        if path.with_suffix(".txt").is_file()
        and "symbols" not in path.parts
        and not path.stem.endswith(("_mirror", "_flip"))
    ]
    random.Random(0).shuffle(found)
    sets = {"held": found[:HELD_OUT], "photos": found[HELD_OUT : HELD_OUT + LEARNED]}
    for name, paths in sets.items():
        folder = out / name
        folder.mkdir(parents=True)
        for number, path in enumerate(paths):
            caption = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0]
            shutil.copy(path, folder / f"{number:03d}-{path.name}")
            (folder / f"{number:03d}-{path.stem}.txt").write_text(caption + "\n", encoding="utf-8")


@torch.no_grad()
def losses(model: VLV, folder: Path) -> tuple[float, float]:
    """Loss of a token of a folder's captions: given the picture, and given the one before it."""
    paths = sorted(folder.glob("*.png"))
    captions = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in paths]
    read = model.read(model.encode([load_image(path) for path in paths]))

    def loss(given: torch.Tensor) -> float:
        total, count = 0.0, 0
        for one, caption in zip(given.split(1), captions, strict=True):
            ids, length = model.caption_decoder.tokenise([caption], None)
            total += float(model.caption_decoder(one, ids, length)) * int(length)
            count += int(length)
        return total / count

    return loss(read), loss(read.roll(1, 0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("split", "loss"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("others", nargs="+", help="split: the folder to write; loss: models")
    given = parser.parse_args()
    if given.what == "split":
        split(given.folder, Path(given.others[0]))
        return
    for name in given.others:
        own, other = losses(VLV.from_pretrained(name, device="cpu"), given.folder)
        print(f"{name}: {own:.2f} a token, {other:.2f} given another picture")


if __name__ == "__main__":
    main()
