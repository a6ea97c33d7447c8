"""Write the tables of the README and of the docs, from the reports in docs/ and from the records in
the weights.

A table takes the place of the one with the same columns in its page (`PAGES`).

python docs/tables.py
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PICTURES = {
    "true renders": "the originals",
    "VAE round trip": "the VAE's round trip",
    "true captions": "the true caption",
    "embeddings z": "**caption embeddings z**",
    "z before stage 2": "z before stage 2",
    "generated captions": "**the model's own caption**",
    "embeddings z, then generated captions": "*z*, then the model's own caption",
    "control: shuffled z": "control: another scene's z",
    "control: mean z": "control: the mean z",
    "control: unconditional": "control: nothing",
    "control: random captions": "control: another scene's caption",
}
CAPTIONS = {
    "generated from z": "**of the model**",
    "control: shuffled z": "control: of another scene's z",
    "control: mean z": "control: of the mean z",
    "control: random captions": "control: another scene's",
}
UNSEEN = {
    "": "like the training scenes",
    "_unseen_pairs": "with a new pair of shape and colour",
    "_unseen_counts": "with four objects; training has one to three",
}
SAMPLERS = {
    "`dpm++`, 12 steps": "docs/reproduction/results/mini.json",
    "`dpm++sde`, 25 steps": "docs/eval_mini.json",
}
DRAWN = {"true captions": "true caption", "embeddings z": "z", "generated captions": "own caption"}
SHAPES = {
    "f1": "F1 of objects",
    "f1_any_shape": "F1, any shape",
    "f1_any_color": "F1, any colour",
    "sphere_accuracy": "spheres %",
    "cube_accuracy": "cubes %",
    "cylinder_accuracy": "cylinders %",
    "cone_accuracy": "cones %",
}
RUNS = {
    "vae": ("image auto-encoder", "pictures", "{psnr:.1f} dB PSNR"),
    "inspector": (
        "measuring network",
        "pictures and truth",
        "shape {shape_accuracy:.1%}, colour {color_accuracy:.1%} of objects",
    ),
    "text-to-image": (
        "U-Net and text tower",
        "pairs",
        "denoising loss {denoising_loss/caption:.3f} with the true caption, "
        "{denoising_loss/shuffled_caption:.2f} with another one, "
        "{denoising_loss/unconditional:.3f} without a caption",
    ),
    "language-model": (
        "language model",
        "captions",
        "{loss/short:.3f} nats a token (perplexity {perplexity/short:.2f})",
    ),
    "stage1": (
        "encoder",
        "pictures only",
        "denoising loss {denoising_loss/z:.3f} with z, {denoising_loss/shuffled_z:.2f} with the z "
        "of another scene, {denoising_loss/mean_z:.3f} with the mean z",
    ),
    "stage2": (
        "encoder, psi, language model",
        "pairs, and captions alone",
        "{caption_loss:.3f} nats a caption token; denoising loss {denoising_loss/z:.3f} with z",
    ),
}


def read(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(figures: dict[str, Any], name: str, decimals: int, factor: float = 1) -> str:
    value = figures[name]["value"] if name in figures else None
    return "" if value is None else f"{value * factor:.{decimals}f}"


def rows_of(path: str, part: str, label: str) -> dict[str, Any]:
    """Rows of a part of a report, by a label."""
    rows = read(path)["rows"]
    return {row["labels"][label]: row for row in rows if row["labels"]["part"] == part}


def mini(part: str, label: str, split: str = "") -> dict[str, Any]:
    return rows_of(f"docs/eval_mini{split}.json", part, label)


def highlights() -> str:
    """The three rows of the README: what is measured, on VLV and on a control."""
    drawn = {source: row["figures"] for source, row in mini("pictures", "drawn from").items()}
    written = {name: row["figures"] for name, row in mini("captions", "captions").items()}
    lines = [
        [
            "pictures drawn from z",
            "F1 of objects",
            figure(drawn["embeddings z"], "f1", 3),
            figure(drawn["control: shuffled z"], "f1", 3),
        ],
        [
            "pictures drawn from the model's own captions",
            "F1 of objects",
            figure(drawn["generated captions"], "f1", 3),
            figure(drawn["control: random captions"], "f1", 3),
        ],
        [
            "the model's own captions",
            "true claims %",
            figure(written["generated from z"], "precision", 1, 100),
            figure(written["control: shuffled z"], "precision", 1, 100),
        ],
    ]
    return table(["measured on", "figure", "VLV", "control"], lines)


def pictures() -> str:
    rows = mini("pictures", "drawn from")
    lines = []
    for source, label in PICTURES.items():
        scale, figures = rows[source]["labels"].get("guidance"), rows[source]["figures"]
        names = (("f1", 3), ("centre_error", 3), ("pixel_error", 1))
        cells = [figure(figures, name, decimals) for name, decimals in names]
        lines.append([label, "" if scale is None else f"{scale:g}", *cells])
    heads = ["drawn from", "guidance", "F1 of objects", "centre error", "pixel error"]
    return table(heads, lines)


def captions() -> str:
    rows = {name: row["figures"] for name, row in mini("captions", "captions").items()}
    names = ("precision", "recall", "object_recall", "readable", "ended")
    lines = [
        [
            label,
            *(figure(rows[source], name, 1, 100) for name in names),
            figure(rows[source], "words", 0),
        ]
        for source, label in CAPTIONS.items()
    ]
    heads = [
        "captions",
        "true claims %",
        "facts stated %",
        "objects named %",
        "readable %",
    ]
    return table([*heads, "ended %", "words"], lines)


def shapes() -> str:
    """What pictures lose: shape and colour apart, and each shape."""
    parts = [mini(part, "drawn from") for part in ("pictures", "objects")]
    lines = [
        [
            PICTURES[source],
            *(
                interval(
                    {**parts[0][source]["figures"], **parts[1][source]["figures"]},
                    name,
                    *((3, 1) if name.startswith("f1") else (1, 100)),
                )
                for name in SHAPES
            ),
        ]
        for source in ("true renders", "VAE round trip", *DRAWN)
    ]
    return table(["drawn from", *SHAPES.values()], lines)


def samplers() -> str:
    """The same scenes by the sampler that is the default, and by the one of most other tables."""
    lines = []
    for source in ("true captions", "embeddings z"):
        for label, path in SAMPLERS.items():
            parts = [rows_of(path, part, "drawn from")[source] for part in ("pictures", "objects")]
            figures = {**parts[0]["figures"], **parts[1]["figures"]}
            cells = [
                interval(figures, "f1", 3, 1),
                interval(figures, "cube_accuracy", 1, 100),
                figure(figures, "centre_error", 3),
                figure(figures, "pixel_error", 1),
            ]
            lines.append([PICTURES[source], label, *cells])
    heads = ["drawn from", "sampler", "F1 of objects", "cubes %", "centre error", "pixel error"]
    return table(heads, lines)


def unseen() -> str:
    """Held-out kinds of scenes: pictures drawn from z and from captions, and captions."""
    lines = []
    for split, label in UNSEEN.items():
        rows = mini("pictures", "drawn from", split)
        drawn = {source: row["figures"] for source, row in rows.items()}
        own = mini("captions", "captions", split)["generated from z"]
        lines.append(
            [
                label,
                *(interval(drawn[source], "f1", 3) for source in DRAWN),
                *(interval(drawn[source], "centre_error", 2) for source in DRAWN),
                *(
                    interval(own["figures"], name, 1, 100)
                    for name in ("precision", "object_recall")
                ),
                str(own["count"]),
            ]
        )
    heads = ["scenes", *(f"F1, {name}" for name in DRAWN.values())]
    heads += [f"centre error, {name}" for name in DRAWN.values()]
    return table([*heads, "true claims %", "objects named %", "n"], lines)


def runs() -> str:
    provenance = read("src/vlv/weights/mini/vlv.json")["provenance"]["stages"]
    lines = []
    for name, (what, source, reached) in RUNS.items():
        run = provenance[name]
        on = f"{run['processes']} x {run['threads']}"
        # The shares of earlier runs, whose weights a run continued, come last.
        every = [run, *before(run)]
        size = " after ".join(f"{one['samples_seen']:,}" for one in every)
        minutes = " after ".join(f"{one['seconds'] / 60:.0f}" for one in every)
        measured: dict[str, float] = {}
        for one in reversed(every):  # what a run left frozen was measured before it
            measured |= one["validation"]
        found = reached.format(**measured)
        lines.append([f"`{name}`", what, source, size, minutes, on, found])
    heads = ["run", "trains", "from", "samples", "minutes", "processes x threads"]
    return table([*heads, "on held-out scenes"], lines)


def before(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The earlier runs that a run continued, the latest first."""
    return [run["before"], *before(run["before"])] if run.get("before") else []


def interval(figures: dict[str, Any], name: str, decimals: int, factor: float = 1) -> str:
    """A figure with half the width of its interval, or a dash if nothing was measured. What was
    counted has no interval.
    """
    found = figures.get(name, {})
    if found.get("value") is None:
        return "—"
    if found["low"] is None:
        return figure(figures, name, decimals, factor)
    half = factor * (found["high"] - found["low"]) / 2
    return f"{factor * found['value']:.{decimals}f} ± {half:.{decimals}f}"


VERDICTS = [
    ("supported %", "supported", 1, 100),
    ("unsupported %", "unsupported", 1, 100),
    ("cannot judge %", "cannot_judge", 1, 100),
]


def verify() -> str:
    """A table for each part of `vlv eval verify`."""
    columns = {
        "errors": [
            ("AUROC", "auroc", 2, 1),
            ("wrong sentences found %", "detected", 0, 100),
            ("false alarms %", "false_alarms", 0, 100),
        ],
        "judged": VERDICTS[2:],
        "other sentences": VERDICTS,
        "other pictures": VERDICTS,
        "scores, own captions": [("AUROC", "auroc", 2, 1)],
        "reliability, own captions": [
            ("predicted %", "probability", 0, 100),
            ("true %", "true_share", 0, 100),
        ],
        "captions": [
            ("true claims %", "precision", 1, 100),
            ("facts stated %", "recall", 1, 100),
            ("objects named %", "object_recall", 1, 100),
            ("invented objects %", "hallucinated", 1, 100),
            ("words", "words", 0, 1),
            ("F1 of pictures drawn", "f1", 3, 1),
        ],
    }
    rows = read("docs/eval_verify.json")["rows"]
    tables = []
    for part, names in columns.items():
        lines = [
            [
                row["labels"]["what"],
                *(
                    interval(row["figures"], name, places, factor)
                    for _, name, places, factor in names
                ),
                str(row["count"]),
            ]
            for row in rows
            if row["labels"]["part"] == part
        ]
        if lines:
            tables.append(table([part, *(head for head, *_ in names), "n"], lines))
    return "\n\n".join(tables)


STYLES = [
    ("AUROC", "auroc", 2, 1),
    ("false alarms %", "false_alarms", 0, 100),
    ("pictures that are judged %", "judged", 0, 100),
]


def renderer() -> str:
    lines = [
        [style, *(interval(row["figures"], name, *shown) for _, name, *shown in STYLES)]
        for style, row in rows_of("docs/eval_renderer.json", "styles", "what").items()
    ]
    return table(["style", *(head for head, *_ in STYLES)], lines)


def nested() -> str:
    """Pictures and captions from the first embeddings: a table for each figure."""
    columns = {
        "F1 of objects": ("f1", 3, 1),
        "centre error": ("centre_error", 2, 1),
        "true claims %": ("precision", 1, 100),
        "objects named %": ("object_recall", 1, 100),
    }
    rows = read("docs/eval_nested.json")["rows"]
    found = {(row["labels"]["queries"], row["labels"]["variant"]): row["figures"] for row in rows}
    numbers, variants = (list(dict.fromkeys(key[at] for key in found)) for at in (0, 1))
    tables = []
    for name, shown in columns.items():
        lines = [
            [str(number), *(interval(found.get((number, one), {}), *shown) for one in variants)]
            for number in numbers
        ]
        tables.append(table([f"*N*: {name}", *variants], lines))
    return "\n\n".join(tables)


def preferences() -> str:
    """A caption decoder with few pairs, trained further on judged words and on whole captions."""
    columns = [
        ("true claims %", "precision", 1, 100),
        ("facts stated %", "recall", 1, 100),
        ("objects named %", "object_recall", 1, 100),
        ("words", "words", 1, 1),
        ("repeated %", "repeated", 1, 100),
    ]
    lines = [
        [
            f"`{row['labels']['variant']}`",
            *(interval(row["figures"], name, *shown) for _, name, *shown in columns),
            str(row["count"]),
        ]
        for row in read("docs/eval_preferences.json")["rows"]
    ]
    return table(["trained on", *(head for head, *_ in columns), "n"], lines)


def between(difference: dict[str, float]) -> str:
    value, low, high = (f"{difference[name]:.3f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def decoders() -> str:
    """A flow transformer beside a U-Net: a table for each part, a column for each model."""
    columns = {
        "training": [("{stage}: samples", None), ("{stage}: PFLOP", ("total_pflop", 2, 1))],
        "pictures": [
            ("F1, {drawn from}", ("f1", 3, 1)),
            ("F1, any shape, {drawn from}", ("f1_any_shape", 3, 1)),
            ("centre error, {drawn from}", ("centre_error", 2, 1)),
        ],
        "captions": [
            ("true claims %", ("precision", 1, 100)),
            ("facts stated %", ("recall", 1, 100)),
            ("objects named %", ("object_recall", 1, 100)),
            ("invented objects %", ("hallucinated", 1, 100)),
        ],
        "wrong sentences": [("AUROC, {error}", ("auroc", 2, 1))],
    }
    result = read("docs/eval_decoders.json")
    rows = result["rows"]
    models = list(dict.fromkeys(row["labels"]["model"] for row in rows))
    tables = []
    for part, figures in columns.items():
        cells: dict[str, dict[str, str]] = {}
        for row in (row for row in rows if row["labels"]["part"] == part):
            for label, shown in figures:
                name = label.format_map(row["labels"])
                cell = f"{row['count']:,}" if shown is None else interval(row["figures"], *shown)
                cells.setdefault(name, {})[row["labels"]["model"]] = cell
        lines = [
            [name, *(cell.get(model, "—") for model in models)] for name, cell in cells.items()
        ]
        tables.append(table([part, *(f"`{model}`" for model in models)], lines))
    differences = [
        [claim["statement"], claim["measure"], between(claim["difference"]), claim["verdict"]]
        for claim in result["claims"]
    ]
    tables.append(table(["claim", "measure", "difference", "verdict"], differences))
    return "\n\n".join(tables)


PAGES = {
    "README.md": [highlights],
    "configs/mini/README.md": [runs],
    "docs/evaluation.md": [pictures, captions, shapes, samplers, unseen, nested],
    "docs/decoders.md": [decoders],
    "docs/preferences.md": [preferences],
    "docs/verify.md": [verify, renderer],
}


def put(text: str, made: str) -> str:
    """The text, with a table in place of the one that has the same columns."""
    head = re.escape(made.split("\n")[0])
    same_columns = re.compile(rf"^{head}\n(\|.*\n)*", re.MULTILINE)
    changed, count = same_columns.subn(lambda _: f"{made}\n", text)
    if count != 1:
        raise ValueError(f"{count} tables with these columns, not one: {made.splitlines()[0]}")
    return changed


def pages() -> dict[str, str]:
    """The pages, with their tables."""
    texts = {}
    for page, makers in PAGES.items():
        texts[page] = (ROOT / page).read_text(encoding="utf-8")
        for made in (made for maker in makers for made in maker().split("\n\n")):
            texts[page] = put(texts[page], made)
    return texts


if __name__ == "__main__":
    for page, text in pages().items():
        (ROOT / page).write_text(text, encoding="utf-8")
