"""What is measured of one trained model, kept scene by scene.

So models of several seeds can be combined with intervals, and a table can be made again without
the model. A measurement is a small file; those of committed tables are committed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlv.errors import ConfigError
from vlv.evaluation.bench import Bench, TableConfig
from vlv.evaluation.metrics.captions import caption_ratios
from vlv.evaluation.metrics.statistics import Ratio
from vlv.evaluation.results import Progress
from vlv.evaluation.sampling import write_captions
from vlv.files import write_text
from vlv.models.vlv import first_queries
from vlv.text import read_object

Kind = Literal["captions", "pictures"]
# The figures that ablations compare.
_KEPT: dict[Kind, tuple[str, ...]] = {
    "captions": (
        *("precision", "recall", "object_recall", "hallucinated", "flawless"),
        *("words", "repeated"),
    ),
    "pictures": ("f1", "centre_error", "size_accuracy", "rotation_error"),
}
# The fields of a run's record that tables quote.
_QUOTED = ("steps", "samples_seen", "seconds", "validation", "best_step", "code_version")


@dataclass(frozen=True)
class Measurement:
    """Ratios by figure, one value a scene, and the record of the model's run."""

    ratios: Mapping[str, Ratio]
    run: Mapping[str, Any]


def measure(
    kind: Kind,
    model: Path,
    record: Mapping[str, Any],
    config: TableConfig,
    guidance_scale: float,
    progress: Progress,
) -> Measurement:
    """Measure the captions of a model folder, or its pictures drawn from embeddings."""
    bench = Bench(config.model_copy(update={"model": str(model)}), progress)
    if kind == "captions":
        ratios = caption_ratios(bench.captions, bench.data.scenes)
    else:
        c = bench.model.condition(bench.z)
        ratios = bench.judge.score(bench.image_sampler.draw(c, guidance_scale, "embeddings")).ratios
    kept = {name: ratios[name] for name in _KEPT[kind]}
    return Measurement(kept, _quoted(record))


def measure_prefix(
    bench: Bench, num_queries: int, record: Mapping[str, Any], guidance_scale: float
) -> Measurement:
    """Measure the pictures and the captions that a model makes of its first embeddings."""
    config, z = bench.config, first_queries(bench.z, num_queries)
    drawn = bench.image_sampler.draw(bench.model.condition(z), guidance_scale, "embeddings")
    made = write_captions(bench.model, z, config.num_beams, config.batch_size, bench.progress)
    found: dict[Kind, dict[str, Ratio]] = {
        "pictures": bench.judge.score(drawn).ratios,
        "captions": caption_ratios([one.text for one in made], bench.data.scenes),
    }
    kept = {name: ratios[name] for kind, ratios in found.items() for name in _KEPT[kind]}
    return Measurement(kept, _quoted(record))


def _quoted(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in _QUOTED if name in record}


def write_measurement(measurement: Measurement, path: Path) -> None:
    """Write a file that `read_measurement` reads."""
    data = {
        "run": measurement.run,
        "ratios": {
            name: {"over": _short(ratio.over), "under": _short(ratio.under)}
            for name, ratio in measurement.ratios.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(data, separators=(",", ":")) + "\n")


def read_measurement(path: Path) -> Measurement:
    """Read a file that `write_measurement` wrote.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    data = read_object(path, ConfigError)
    try:
        ratios = {
            name: Ratio(np.array(ratio["over"], np.float64), np.array(ratio["under"], np.float64))
            for name, ratio in data["ratios"].items()
        }
        return Measurement(ratios, dict(data["run"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} does not hold a measurement ({error!r}); remove it to measure anew"
        ) from error


def _short(values: np.ndarray) -> list[float]:
    # Counts as integers, and distances with enough digits to separate two places.
    return [int(value) if value == int(value) else round(float(value), 5) for value in values]
