"""How figures are called and written: one vocabulary for all tables."""

import math
from dataclasses import dataclass

from vlv.evaluation.metrics import Figure


@dataclass(frozen=True)
class Column:
    """Heading of a figure, its decimals, and the factor that it is shown with.

    better: the direction in which the figure improves, 1 or -1; 0 where neither is better.
    """

    heading: str
    decimals: int = 3
    factor: int = 1
    better: int = 1


COLUMNS = {
    "f1": Column("F1"),
    "centre_error": Column("centre error", better=-1),
    "pixel_error": Column("pixel error", 1, better=-1),
    "psnr": Column("PSNR dB", 1),
    "count_accuracy": Column("count %", 1, 100),
    "size_accuracy": Column("size %", 1, 100),
    "material_accuracy": Column("material %", 1, 100),
    "rotation_error": Column("rotation °", 1, better=-1),
    "floor_accuracy": Column("floor %", 1, 100),
    "light_accuracy": Column("light %", 1, 100),
    "frechet": Column("Fréchet*", 3, better=-1),
    "precision": Column("precision %", 1, 100),
    "recall": Column("recall %", 1, 100),
    "object_recall": Column("objects %", 1, 100),
    "hallucinated": Column("invented %", 1, 100, better=-1),
    "flawless": Column("flawless %", 1, 100),
    "readable": Column("readable %", 1, 100),
    "ended": Column("ended %", 1, 100),
    "words": Column("words", 1, better=0),
}
FRECHET_NOTE = (
    "Fréchet*: on features of the inspector, not Inception; compare rows of equally many scenes "
    "only."
)


def column(name: str) -> Column:
    """The column of a figure; one that is not in the vocabulary is called by its name."""
    return COLUMNS.get(name, Column(name.replace("_", " ")))


def cell(figure: Figure, column: Column) -> str:
    """The value with half the width of its interval."""
    if math.isnan(figure.value):
        return "—"
    text = f"{column.factor * figure.value:.{column.decimals}f}"
    if math.isnan(figure.low):
        return text
    return f"{text} ±{column.factor * (figure.high - figure.low) / 2:.{column.decimals}f}"
