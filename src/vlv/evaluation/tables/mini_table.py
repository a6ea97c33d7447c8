"""`vlv eval mini` as a table of the report: its figures as rows, its floors as claims and notes."""

from pydantic import Field

from vlv.evaluation.bench import TableConfig
from vlv.evaluation.floors import Floor
from vlv.evaluation.progress import Progress, silent
from vlv.evaluation.report.console import PICTURE_FIGURES, PICTURE_NOTE, SOURCE_NAMES
from vlv.evaluation.results import Claim, Label, Result, Row
from vlv.evaluation.tables.mini import MiniOptions, MiniReport, evaluate_mini

# Floor -> statement, and the paper's figures with their table.
_CLAIMS = {
    "F1 from embeddings above the best control": (
        "Caption embeddings learned from images alone carry what is in the picture.",
        "FID of pictures drawn from the embeddings 9.71 / 7.22 / 7.70 / 7.84 at guidance 1 / 2 / 3 "
        "/ 4 (table 5, 40M images)",
    ),
    "centre error from true captions above that from embeddings": (
        "Reconstructions from the embeddings keep objects in their places.",
        "L1 error of the centres of 3D boxes 0.0988 (table 6, 40M images)",
    ),
}


class Config(TableConfig):
    """stage1: id or folder whose encoder is measured as the one before stage 2; None is the
    package's for the package's model, and otherwise none. guidance_scale: of all pictures.
    """

    stage1: str | None = None
    guidance_scale: float = Field(2.0, ge=1)


def evaluate(config: Config, progress: Progress = silent) -> Result:
    """Measure pictures and captions of every source and control.

    Raises:
        CheckpointError, ConfigError, WorldError: as `evaluate_mini`.
    """
    fields = config.model_dump(exclude={"guidance_scale", "inspector"})
    inspector = None if config.inspector is None else str(config.inspector)
    scales = (config.guidance_scale,)
    report = evaluate_mini(
        MiniOptions(**fields, inspector=inspector, guidance_scales=scales), progress
    )
    return as_result(report, config)


def as_result(report: MiniReport, config: Config) -> Result:
    """The figures of all scenes; a floor that is no claim of the paper is a note."""
    return Result(
        name="mini",
        title="Pictures and captions of held-out scenes, with their controls",
        paper="what tables 1 to 6 rest on: one z that is drawn from and captioned",
        rows=[*_picture_rows(report), *_caption_rows(report, config.count)],
        claims=[_claim(floor) for floor in report.floors if floor.name in _CLAIMS],
        notes=[
            PICTURE_NOTE,
            *(_told(floor) for floor in report.floors if floor.name not in _CLAIMS),
        ],
        provenance=report.provenance,
    )


def _picture_rows(report: MiniReport) -> list[Row]:
    rows = []
    for one in report.pictures:
        labels: dict[str, Label] = {"drawn from": SOURCE_NAMES[one.source]}
        if one.guidance_scale is not None:
            labels["guidance"] = one.guidance_scale
        figures = {name: one.figures[name] for name in PICTURE_FIGURES}
        rows.append(Row(labels, one.count, figures))
    return rows


def _caption_rows(report: MiniReport, count: int) -> list[Row]:
    return [
        Row({"captions": SOURCE_NAMES[source]}, count, figures)
        for source, figures in report.captions.items()
    ]


def _claim(floor: Floor) -> Claim:
    statement, paper = _CLAIMS[floor.name]
    return Claim(statement, paper, floor.name, floor.figure)


def _told(floor: Floor) -> str:
    figure = floor.figure
    return (
        f"Floor {'met' if floor.met else 'missed'}: {floor.name}, at least {floor.least:g}; "
        f"reached {figure.value:.3f} (95% {figure.low:.3f} to {figure.high:.3f})."
    )
