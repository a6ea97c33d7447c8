"""How figures are called and written: one vocabulary for all tables."""

import math
from dataclasses import dataclass

from vlv.evaluation.metrics.statistics import Figure


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
    "f1_any_shape": Column("F1, any shape"),
    "f1_any_color": Column("F1, any colour"),
    "sphere_accuracy": Column("spheres %", 1, 100),
    "cube_accuracy": Column("cubes %", 1, 100),
    "cylinder_accuracy": Column("cylinders %", 1, 100),
    "cone_accuracy": Column("cones %", 1, 100),
    "centre_error": Column("centre error", better=-1),
    "angle_error": Column("angle error", better=-1),
    "scale_error": Column("scale error", better=-1),
    "matched": Column("matched %", 1, 100),
    "boxes": Column("boxes", 1, better=0),
    "boxes_drawn": Column("boxes in the picture", 1, better=0),
    "pixel_error": Column("pixel error", 1, better=-1),
    "psnr": Column("PSNR dB", 1),
    "count_accuracy": Column("count %", 1, 100),
    "size_accuracy": Column("size %", 1, 100),
    "material_accuracy": Column("material %", 1, 100),
    "rotation_error": Column("rotation °", 1, better=-1),
    "floor_accuracy": Column("floor %", 1, 100),
    "light_accuracy": Column("light %", 1, 100),
    "frechet": Column("Fréchet*", 3, better=-1),
    "unfit": Column("does not fit %", 1, 100, better=-1),
    "fid": Column("FID", 2, better=-1),
    "kid": Column("KID ×1000", 3, 1000, better=-1),
    "fd": Column("FD", 3, better=-1),
    "kd": Column("KD", 3, better=-1),
    "dino": Column("DINO similarity"),
    "clip_image": Column("CLIP similarity"),
    "lpips": Column("LPIPS", better=-1),
    "ssim": Column("SSIM"),
    "precision": Column("precision %", 1, 100),
    "recall": Column("recall %", 1, 100),
    "object_recall": Column("objects %", 1, 100),
    "hallucinated": Column("invented %", 1, 100, better=-1),
    "flawless": Column("flawless %", 1, 100),
    "readable": Column("readable %", 1, 100),
    "ended": Column("ended %", 1, 100),
    "words": Column("words", 1, better=0),
    "repeated": Column("repeated %", 1, 100, better=-1),
    "accuracy": Column("answered %", 1, 100),
    "abstained": Column("abstained %", 1, 100, better=-1),
    "existence_accuracy": Column("existence %", 1, 100),
    "attribute_accuracy": Column("attribute %", 1, 100),
    "comparison_accuracy": Column("comparison %", 1, 100),
    "relation_accuracy": Column("relation %", 1, 100),
    "score": Column("score", 2),
    **{f"score_{score}": Column(f"{score}: %", 1, 100, better=0) for score in range(7)},
    "coverage": Column("coverage %", 1, 100),
    "hallucinations": Column("hallucinations", 2, better=-1),
    "auroc": Column("AUROC"),
    "detected": Column("wrong ones found %", 1, 100),
    "false_alarms": Column("false alarms %", 1, 100, better=-1),
    "auroc_judged": Column("AUROC, judged"),
    "auroc_all": Column("AUROC, all"),
    "supported": Column("supported %", 1, 100, better=0),
    "unsupported": Column("unsupported %", 1, 100, better=0),
    "cannot_judge": Column("cannot judge %", 1, 100, better=0),
    "ece": Column("calibration error %", 1, 100, better=-1),
    "own_rate": Column("own rate %", 1, 100, better=0),
    "threshold": Column("threshold", 4, better=0),
    "calibrated_on": Column("calibrated on", 0, better=0),
    "true_share": Column("true %", 1, 100, better=0),
    "probability": Column("predicted %", 1, 100, better=0),
    "flagged": Column("flagged %", 1, 100, better=0),
    "joint": Column("A's objects on B's floor %", 1, 100),
    "objects_of_a": Column("A's objects %", 1, 100),
    "floor_of_b": Column("B's floor %", 1, 100),
    "light_of_b": Column("B's light %", 1, 100),
    "objects_of_b": Column("B's objects %", 1, 100, better=0),
    "floor_of_a": Column("A's floor %", 1, 100, better=0),
    "all_of_a": Column("all of A's %", 1, 100),
    "joint_reversed": Column("B's objects on A's floor %", 1, 100, better=0),
    "mean_score": Column("mean score", 2),
    **{
        f"read_{fact}": Column(fact, 2)
        for fact in (
            *("floor", "light", "count", "pairs", "colors", "shapes", "large", "shiny", "centre"),
            *("place", "rotation"),
        )
    },
    "cider": Column("CIDEr"),
    **{f"bleu_{order}": Column(f"BLEU-{order}", 1, 100) for order in range(1, 5)},
    "rouge_l": Column("ROUGE-L", 1, 100),
    "clip_score": Column("CLIPScore"),
    "caption_loss": Column("loss per token", better=-1),
    "distinct_share": Column("different words in a caption %", 1, 100, better=0),
    "same_text": Column("captions that occur twice %", 1, 100, better=-1),
    "vocabulary": Column("different words", 0, better=0),
    "difference": Column("difference", 2),
    "first_minus_last": Column("first minus last", 2, better=0),
    "alpha": Column("alpha", 2),
    "kappa": Column("kappa", 2),
    "equal_share": Column("equal %", 1, 100),
    "within_one": Column("at most 1 apart %", 1, 100),
    "strength": Column("strength", 2),
    "win_share": Column("wins %", 1, 100),
    "first_wins": Column("first wins %", 1, 100, better=0),
    "first_preferred": Column("first preferred %", 1, 100, better=0),
    "same_in_both": Column("same in both orders %", 1, 100),
    "ties": Column("ties %", 1, 100, better=0),
    "yes/no": Column("yes/no %", 1, 100),
    "number": Column("number %", 1, 100),
    "other": Column("other %", 1, 100),
    "sample_gflop": Column("GFLOP/sample", 2, better=0),
    "total_pflop": Column("PFLOP", 2, better=0),
    "hours": Column("hours", 2, better=-1),
    "gflop_per_second": Column("GFLOP/s", 1),
    "product_share": Column("product share %", 1, 100),
    "usd": Column("USD", 2, better=-1),
    "h200_hours": Column("H200 h", 0, better=-1),
    "h200_usd": Column("H200 USD", 0, better=-1),
    "ada_hours": Column("Ada h", 0, better=-1),
    "ada_usd": Column("Ada USD", 0, better=-1),
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


def label_text(value: str | int | float) -> str:
    """The cell of a label."""
    return f"{value:g}" if isinstance(value, float) else str(value)
