"""Sets into which duplicates and bad images were planted, and metadata like that of LAION."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from vlv.data.samples import Sample
from vlv.data.sets import write_set
from vlv.data.world_sets import world_samples

WORDS = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps in the warm sun until evening "
    "comes; nobody knows where it goes at night, or whether it will be back for the winter feast."
)
Edit = Callable[[Image.Image], bytes]


def jpeg(picture: Image.Image, quality: int = 85) -> bytes:
    return encoded(picture, "JPEG", quality=quality)


def encoded(picture: Image.Image, format: str, **options: int) -> bytes:
    file = io.BytesIO()
    picture.convert("RGB").save(file, format, **options)
    return file.getvalue()


def enlarged(times: int) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: picture.resize((64 * times, 64 * times), Image.Resampling.LANCZOS)


# By the reason for which the edited copy of an earlier image is dropped.
COPIES: dict[str, list[Edit]] = {
    "duplicate": [
        lambda one: encoded(one, "PNG"),
        lambda one: encoded(one, "BMP"),
        lambda one: encoded(one, "WEBP", lossless=1),
    ],
    "near-duplicate": [
        lambda one: jpeg(one, 92),
        lambda one: jpeg(enlarged(2)(one), 80),
        lambda one: encoded(enlarged(3)(one), "PNG"),
        lambda one: encoded(ImageEnhance.Brightness(one).enhance(1.02), "PNG"),
    ],
}


def text_picture() -> Image.Image:
    picture = Image.new("RGB", (640, 480), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(20)
    for line in range(12):
        at = line * 37 % 90
        draw.text((20, 20 + 28 * line), WORDS[at : at + 55], fill=(20, 20, 30), font=font)
    return picture


def huge_picture() -> bytes:
    file = io.BytesIO()
    Image.new("1", (12_000, 9_000)).save(file, "PNG")  # a bit a pixel: written at once
    return file.getvalue()


BAD: dict[str, list[bytes]] = {
    "flat": [
        jpeg(Image.new("RGB", (90, 70), (200, 30, 40)), 40),
        jpeg(Image.linear_gradient("L").resize((300, 200))),
    ],
    "text-only": [jpeg(text_picture(), 70)],
    "truncated": [encoded(text_picture(), "PNG")[:900]],
    "unknown-format": [b"<html><body>404 Not Found</body></html>", b"%PDF-1.4 no picture"],
    "empty": [b""],
    "too-many-pixels": [huge_picture()],
}


def scenes(count: int, seed: int = 0) -> list[Sample]:
    """World images, no two of one scene: the world sometimes draws the same objects twice, less
    than a pixel apart, and these are duplicates that nobody planted.
    """
    drawn: dict[tuple[object, ...], list[np.ndarray]] = {}  # type: ignore[type-arg]
    found: list[Sample] = []
    for sample in world_samples(count + count // 50, seed=seed):
        scene = sample.meta["scene"]
        kinds = [(o["shape"], o["color"], o["size"], o["material"]) for o in scene["objects"]]
        boxes = np.array([o["pixel_box"] for o in scene["objects"]])
        before = drawn.setdefault((scene["floor"], scene["light"], *kinds), [])
        if all(np.abs(boxes - other).max() >= 1 for other in before):
            found.append(sample)
        before.append(boxes)
    assert len(found) >= count
    return found[:count]


def planted(count: int, copies: int, *, seed: int = 0) -> tuple[list[Sample], dict[str, str]]:
    """World images with edited copies of some and all bad images, in mixed order; and for each key
    that was planted the reason for which it is dropped.
    """
    rng = np.random.default_rng(seed)
    samples = scenes(count, seed)
    reasons: dict[str, str] = {}
    edits = [(reason, edit) for reason, many in COPIES.items() for edit in many]
    added: list[tuple[int, Sample]] = []  # the place after which it comes
    for number, original in enumerate(rng.choice(count // 2, copies, replace=False).tolist()):
        reason, edit = edits[number % len(edits)]
        one = samples[original]
        key = f"copy-{number:04d}"
        place = int(rng.integers(original, count))
        added.append((place, replace(one, key=key, image=edit(one.picture()), extension=".png")))
        reasons[key] = reason
    for reason, files in BAD.items():
        for number, file in enumerate(files):
            key = f"{reason}-{number}"
            place = int(rng.integers(count))
            added.append((place, Sample(key, file, ".jpg", "A bad one.", {})))
            reasons[key] = reason
    for place, sample in sorted(added, key=lambda one: (-one[0], one[1].key)):
        samples.insert(place + 1, sample)
    return samples, reasons


def planted_set(
    folder: Path, count: int, copies: int, *, format: str, shard_size: int = 50
) -> dict[str, str]:
    samples, reasons = planted(count, copies)
    write_set(samples, folder, format=format, shard_size=shard_size)
    return reasons


def digests(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def laion_metadata(folder: Path, rows: int = 400, files: int = 2, **columns: object) -> None:
    """Parquet files with the columns of LAION-2B-en-aesthetic; `columns` replace some, or remove
    them if they are None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        rng = np.random.default_rng(number)
        table: dict[str, object] = {
            "URL": [f"https://img.host{at % 7}.example/{number}/{at}.jpg" for at in range(rows)],
            "TEXT": [f"A {('cat', 'dog', 'gun', 'categories')[at % 4]} {at}" for at in range(rows)],
            "WIDTH": rng.integers(200, 2000, rows),
            "HEIGHT": rng.integers(200, 2000, rows),
            "similarity": rng.random(rows),
            "hash": rng.integers(-(2**62), 2**62, rows),
            "punsafe": rng.random(rows) ** 4,
            "pwatermark": [None if at % 50 == 7 else rng.random() for at in range(rows)],
            "AESTHETIC_SCORE": rng.normal(5, 1, rows),
        }
        table |= columns
        kept = {name: values for name, values in table.items() if values is not None}
        pq.write_table(pa.table(kept), folder / f"part-{number:05d}.parquet")
