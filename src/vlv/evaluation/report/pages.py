"""The report of `vlv reproduce`: what was measured, as one page in HTML and in Markdown.

The first screen answers the question. Each table has a section with the evidence. Measures nothing.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlv.evaluation.report.document import (
    Block,
    Bullets,
    Code,
    Grid,
    Heading,
    Inline,
    Line,
    Link,
    Paragraph,
    Picture,
    Strong,
)
from vlv.evaluation.report.formats import html_page, markdown_page
from vlv.evaluation.report.heat_map import heat_map
from vlv.evaluation.report.plots import plot
from vlv.evaluation.report.tables import table_cells
from vlv.evaluation.reproduction import MEASURED, RESULTS, SCENES, Failure, Report
from vlv.evaluation.results import PART, Claim, Result, Row, row_groups
from vlv.evaluation.scenes import GUIDANCE_SCALE, Scenes
from vlv.files import write_text

QUESTION = "Does VLV do what the paper says?"
_PLOTS = "plots"
_COMPOSED = "compose"
_PROVENANCE = Heading("Provenance", 2)
_WORLD = (
    "All verdicts hold in the embedded world only: rendered scenes of a few objects, and small "
    "models that were trained in it. They say nothing about photographs or about the weights "
    "that the paper's authors released."
)
_READING = (
    "Each claim is tested by a difference that is positive if the claim holds. The claim is "
    "confirmed if the whole 95% interval (bootstrap over scenes) is above zero, contradicted at "
    "this scale if the whole interval is below zero, and unconfirmed if the interval contains "
    "zero or nothing was measured. In the tables, ± is half the width of the 95% interval, and n "
    "is the number of scenes, questions or pairs. An arrow shows the direction in which a figure "
    "gets better. In the plots, bars and bands are 95% intervals; a bar that reaches the end of "
    "its axis continues beyond it."
)
_OTHER_WEIGHTS = (
    "These tables were measured with other weights than the first table, so they are not of the "
    "same model: {}."
)
_ARROWS = {1: " ↑", -1: " ↓", 0: ""}


def write_report(report: Report, output: Path) -> list[Path]:
    """Write report.html, report.md and the plots that they show; returns the two pages."""
    blocks = list(pages(report))
    for block in blocks:
        if isinstance(block, Picture) and block.svg is not None:
            _write(output / block.file, block.svg)
    title = f"{QUESTION} ({report.preset})"
    texts = {"report.html": html_page(title, blocks, output), "report.md": markdown_page(blocks)}
    return [_write(output / name, text) for name, text in texts.items()]


def pages(report: Report) -> Iterator[Block]:
    """The report from top to bottom."""
    yield Heading(QUESTION, 1)
    yield Paragraph(_summary(report))
    yield Paragraph([Strong(_WORLD)])
    yield Paragraph(_made_with(report))
    if others := _of_other_weights(report):
        yield Paragraph([Strong(_OTHER_WEIGHTS.format(", ".join(others)))])
    yield from _claims(report)
    yield Paragraph([_READING])
    if report.scenes is not None:
        yield from _scenes(report.scenes)
    for result in report.results:
        yield from _section(result)
    if report.failures:
        yield _failed_heading(report.failures)
        yield Bullets([[Strong(one.name), f": {one.error}"] for one in report.failures])
    yield from _provenance(report)


def _summary(report: Report) -> Line:
    verdicts = [claim.verdict for result in report.results for claim in result.claims]
    summary: list[Inline] = [
        f"Of {len(verdicts)} claims, {verdicts.count('confirmed')} are confirmed, "
        f"{verdicts.count('unconfirmed')} are unconfirmed, and "
        f"{verdicts.count('contradicted')} are contradicted at this scale."
    ]
    if report.failures:
        names = ", ".join(one.name for one in report.failures)
        heading = _failed_heading(report.failures)
        summary += [
            " ",
            Strong("Could not be measured:", "failed"),
            f" {names} (",
            Link("why", f"#{heading.slug}"),
            ").",
        ]
    return summary


def _claims(report: Report) -> Iterator[Grid]:
    rows = [_claim_row(claim, result) for result in report.results for claim in result.claims]
    if rows:
        yield Grid(["claim", "verdict", "measured here", "the paper's figures", "more"], rows)


def _claim_row(claim: Claim, result: Result) -> list[Line]:
    more = result.name if claim.verdict == "confirmed" else f"{result.name}: what limits it"
    return [
        [claim.statement],
        [_verdict(claim)],
        [_measured(claim)],
        [claim.paper],
        [Link(more, f"#{_heading(result).slug}")],
    ]


def _measured(claim: Claim) -> str:
    figure = claim.difference
    if math.isnan(figure.value):
        return f"{claim.measure}: could not be measured"
    if figure.low == figure.high or math.isnan(figure.low):  # counted, or a single scene
        return f"{claim.measure}: {figure.value:+,.3f}"
    return (
        f"{claim.measure}: {figure.value:+.3f} (95% interval {figure.low:+.3f} to "
        f"{figure.high:+.3f})"
    )


def _verdict(claim: Claim) -> Strong:
    if claim.verdict == "contradicted":
        return Strong("contradicted at this scale", "contradicted")
    return Strong(claim.verdict, claim.verdict)


def _made_with(report: Report) -> Line:
    """One line of provenance for the first screen."""
    measured = list(_provenances(report).values())
    hashes = sorted({one["weights"]["model"][:12] for one in measured})
    environments = [one["environment"] for one in measured]
    versions = sorted({f"vlv {one['vlv']}, torch {one['torch']}" for one in environments})
    dates = sorted({one["date"] for one in measured})
    machines = sorted({one["machine"] for one in measured})
    seconds = sum(one["seconds"] for one in measured)
    return [
        f"Preset {report.preset}. Weights {', '.join(hashes)}; {'; '.join(versions)}; measured on "
        f"{' to '.join(dict.fromkeys([*dates[:1], *dates[-1:]]))} on {', '.join(machines)} in "
        f"{seconds:,.0f} s. ",
        Link("All hashes and versions", f"#{_PROVENANCE.slug}"),
        ".",
    ]


def _of_other_weights(report: Report) -> list[str]:
    """Tables whose model has other weights than that of the first, with the hash of theirs."""
    models = {name: one["weights"]["model"] for name, one in _provenances(report).items()}
    first = next(iter(models.values()), None)
    return [f"{name} ({model[:12]})" for name, model in models.items() if model != first]


def _scenes(scenes: Scenes) -> Iterator[Block]:
    yield Heading("What the model sees and says", 2)
    yield Paragraph(
        [
            f"The first {len(scenes.captions)} held-out scenes. Below each scene: what the "
            "diffusion decoder draws from its caption embeddings, and what it draws from the "
            f"model's own caption (guidance {GUIDANCE_SCALE:g}, the same noise in both rows)."
        ]
    )
    yield Picture(
        SCENES,
        "Rows of pictures: originals, reconstructions from the caption embeddings, and pictures "
        "drawn from the model's own captions, with these captions below",
    )
    captions = zip(scenes.captions, scenes.true_captions, strict=True)
    yield Grid(
        ["scene", "the model's caption", "a true caption"],
        [[[str(number)], [own], [true]] for number, (own, true) in enumerate(captions, start=1)],
    )


def _heading(result: Result) -> Heading:
    return Heading(f"{result.name}: {result.title}", 2)


def _section(result: Result) -> Iterator[Block]:
    yield _heading(result)
    yield Paragraph([f"Counterpart in the paper: {result.paper}."])
    for claim in result.claims:
        yield Paragraph(
            [
                _verdict(claim),
                f" {claim.statement} Measured: {_measured(claim)}. Paper: {claim.paper}.",
            ]
        )
    if result.name == _COMPOSED:
        yield Picture(
            f"{_PLOTS}/{result.name}.svg",
            "Heat map: what a picture takes of A and of B, by how their embeddings are split",
            heat_map(result),
        )
    for number, rows in enumerate(row_groups(result.rows), start=1):
        if PART in rows[0].labels:
            yield Heading(str(rows[0].labels[PART]).capitalize(), 3)
        yield _rows(rows)
        # The heat map is the plot of compositions.
        shown = None if result.name == _COMPOSED else plot(rows)
        if shown is not None:
            yield Picture(
                f"{_PLOTS}/{result.name}-{number}.svg", f"{result.title}: {shown.alt}", shown.svg
            )
    limited = any(claim.verdict != "confirmed" for claim in result.claims)
    if limited or result.notes:
        yield Heading("What limits it" if limited else "How to read the figures", 3)
        yield Bullets([[note] for note in result.notes] or [["The cause is not known yet."]])
    yield Paragraph([*_occasion(result), Link("figures as JSON", f"{RESULTS}/{result.name}.json")])


def _rows(rows: Sequence[Row]) -> Grid:
    labels, columns, lines = table_cells(rows)
    heads = [*labels, *(one.heading + _ARROWS[one.better] for one in columns), "n"]
    cells: list[list[Line]] = [[[text] for text in line] for line in lines]
    return Grid(heads, cells, frozenset(range(len(labels), len(heads))))


def _occasion(result: Result) -> Line:
    measured = result.provenance[MEASURED]
    config = measured["config"]
    return [
        f"Count {config['count']}, split {config['split']}, seed {config['seed']}; "
        f"{measured['seconds']:,.0f} s on {measured['date']}; "
    ]


def _failed_heading(failures: Sequence[Failure]) -> Heading:
    return Heading(f"What could not be measured: {', '.join(one.name for one in failures)}", 2)


def _provenance(report: Report) -> Iterator[Block]:
    yield _PROVENANCE
    yield Paragraph(
        [
            "Measured by ",
            Code(f"vlv reproduce --preset {report.preset}"),
            ". The command keeps a result as long as its config, the weights and the renderer "
            "of the scenes are the same.",
        ]
    )
    measured = _provenances(report)
    yield Grid(
        ["table", "date", "machine", "threads", "seconds", "code"],
        [
            [
                [name],
                [one["date"]],
                [one["machine"]],
                [str(one["environment"]["num_threads"])],
                [f"{one['seconds']:,.0f}"],
                [one["code_version"]],
            ]
            for name, one in measured.items()
        ],
        frozenset({3, 4}),
    )
    weights = {
        (role, digest): None for one in measured.values() for role, digest in one["weights"].items()
    }
    yield Grid(
        ["weights", "SHA-256 of the folder"], [[[role], [Code(digest)]] for role, digest in weights]
    )
    versions = {
        (name, str(version)): None
        for one in measured.values()
        for name, version in one["environment"].items()
        if name != "num_threads"
    }
    yield Bullets([[f"{name} {version}"] for name, version in versions])


def _provenances(report: Report) -> dict[str, dict[str, Any]]:
    """By table: when it was measured, and with what."""
    return {result.name: result.provenance[MEASURED] for result in report.results}


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path
