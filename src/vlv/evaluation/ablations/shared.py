"""What ablations share: short runs with the same frozen components, measured on the same scenes.

The frozen components are those of `model`: VAE, U-Net and text tower. Its language model was
trained with pictures, so a fresh one is trained on text, once for all runs.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pydantic import Field

from vlv.checkpoints.hub import resolve
from vlv.checkpoints.manifest import read_manifest
from vlv.evaluation.ablations.measurements import (
    Kind,
    Measurement,
    measure,
    read_measurement,
    write_measurement,
)
from vlv.evaluation.ablations.runs import ModelComponents, Run, finish
from vlv.evaluation.bench import TableConfig
from vlv.evaluation.metrics.statistics import Figure, Ratio, SeedBootstrap
from vlv.evaluation.results import Label, Progress, Row, environment, folder_hash, silent
from vlv.models.families import FAMILIES
from vlv.training.config import read_yaml
from vlv.training.reproduce import configs_folder


class AblationConfig(TableConfig):
    """The runs, and where they are.

    folder: of runs. measurements: a folder; a run that was measured on the same scenes is not
    repeated. world: a folder that keeps the scenes' pictures. workers, run_threads: how many runs
    at a time, and the threads of each. sizes: a model config (YAML) of what is trained; None is
    that of the mini. stage1, stage2, language_model: fields in which these stages differ from
    configs/ablations/base. seeds: how many at the first and the last point; the points between have
    one. guidance_scale: of pictures.
    """

    folder: Path = Path("runs/ablations")
    measurements: Path = Path("runs/ablations/measurements")
    world: Path = Path("runs/world")
    workers: int = Field(2, ge=1)
    run_threads: int = Field(1, ge=1)
    sizes: Path | None = None
    stage1: dict[str, Any] = {}
    stage2: dict[str, Any] = {}
    language_model: dict[str, Any] = {}
    seeds: int = Field(3, ge=1)
    guidance_scale: float = Field(2.0, ge=1)
    num_beams: int = Field(1, ge=1)

    def model_sizes(self) -> dict[str, Any]:
        """The content of `sizes`."""
        return read_yaml(self.sizes or configs_folder() / "mini" / "model.yaml")

    def frozen(self) -> ModelComponents:
        """The shared frozen components."""
        folder = resolve(self.model)
        family = read_manifest(folder).config.family
        return ModelComponents(folder, ("text_tower", *FAMILIES[family].components))

    def stage1_run(self, seed: int, **changes: Any) -> Run:
        """Stage 1 with a fresh encoder; `changes` of `stage1`, or `sizes`."""
        sizes = changes.pop("sizes", None) or self.model_sizes()
        fields = {**base_fields("stage1"), **self.stage1, "seed": seed, **changes}
        return Run("stage1", fields, sizes, {"decoder": self.frozen()})

    def language_model_run(self, sizes: dict[str, Any] | None = None) -> Run:
        """A language model trained on text only."""
        fields = {**base_fields("language-model"), **self.language_model}
        return Run("language-model", fields, sizes or self.model_sizes())

    def stage2_run(self, seed: int, stage1: Run, language_model: Run, **changes: Any) -> Run:
        """Stage 2 on the encoder of a stage-1 run; `changes` of `stage2`."""
        inputs = {"stage1": stage1, "language_model": language_model}
        fields = {**base_fields("stage2"), **self.stage2, "seed": seed, **changes}
        return Run("stage2", fields, None, inputs)

    def stage2_of(self, encoder: str, seed: int, language_model: Run, **changes: Any) -> Run:
        """Stage 2 on the encoder of a model (id or folder) with the same frozen components."""
        inputs: dict[str, Run | ModelComponents] = {
            "stage1": self.frozen(),
            "encoder": ModelComponents(resolve(encoder), ("encoder",)),
            "language_model": language_model,
        }
        fields = {**base_fields("stage2"), **self.stage2, "seed": seed, **changes}
        return Run("stage2", fields, None, inputs)

    def without_stage1(self, seed: int, language_model: Run, **changes: Any) -> Run:
        """Stage 2 with a fresh encoder; `changes` of `stage2`."""
        inputs: dict[str, Run | ModelComponents] = {
            "stage1": self.frozen(),
            "language_model": language_model,
        }
        fields = {**base_fields("stage2"), **self.stage2, "seed": seed, **changes}
        return Run("stage2", {**fields, "fresh_encoder": True}, self.model_sizes(), inputs)

    def measurement(self, run: Run, kind: Kind) -> Path:
        """The file of what was measured of a run."""
        return self.measurements / f"{self.measurement_name(run.name, kind)}.json"

    def measurement_name(self, run: str, kind: Kind) -> str:
        """What the figures of a run depend on."""
        scenes = f"{self.split}-{self.seed}-{self.count}"
        how = f"beams{self.num_beams}" if kind == "captions" else self._how_drawn()
        return f"{run}-{kind}-{how}-{scenes}"

    def _how_drawn(self) -> str:
        """What the figures of a picture depend on, besides the model and the scene."""
        sampler = f"{self.scheduler}-{self.num_inference_steps}-{self.mixed_precision}"
        by = "" if self.inspector is None else f"-inspector-{folder_hash(self.inspector)[:10]}"
        return f"x{self.guidance_scale:g}-{sampler}{by}"

    def seeds_at(self, points: Sequence[Any], point: Any) -> range:
        """All seeds at the first and the last of the points, one between them."""
        return range(self.seeds if point in (points[0], points[-1]) else 1)


def base_fields(stage: str) -> dict[str, Any]:
    """The fields of a stage that ablations share, without folders (configs/ablations/base)."""
    return read_yaml(configs_folder() / "ablations" / "base" / f"{stage}.yaml")


def _measure_all(
    config: AblationConfig, kind: Kind, runs: Sequence[Run], progress: Progress
) -> None:
    """Measure finished runs, as many at a time as are trained."""
    if not runs:
        return
    # A process with threads of torch, or with a GPU, cannot be forked.
    workers = min(config.workers, len(runs))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_measure, config, kind, run) for run in runs]
        done = as_completed(jobs)
        for job in progress(done, total=len(jobs), unit="run", description="measuring"):
            job.result()


def _measure(config: AblationConfig, kind: Kind, run: Run) -> None:
    single = config.model_copy(update={"num_threads": config.run_threads})
    measured = measure(
        kind,
        run.output(config.folder),
        run.record(config.folder),
        single,
        config.guidance_scale,
        silent,
    )
    write_measurement(measured, config.measurement(run, kind))


Groups = Mapping[tuple[Any, ...], Sequence[Run]]


class Ablation:
    """The measurements of all runs of a table, by group. Runs of one group differ by seed."""

    def __init__(
        self, config: AblationConfig, kind: Kind, groups: Groups, progress: Progress
    ) -> None:
        """Do what is missing: first the runs, then the measurements.

        Raises:
            TrainingError: runs failed.
        """
        self._config = config
        self._runs = groups
        runs = [run for group in groups.values() for run in group]
        unmeasured = {run.name: run for run in runs if not config.measurement(run, kind).is_file()}
        finish(
            unmeasured.values(),
            config.folder,
            config.world,
            workers=config.workers,
            num_threads=config.run_threads,
            progress=progress,
        )
        _measure_all(config, kind, list(unmeasured.values()), progress)
        self.measured: dict[tuple[Any, ...], list[Measurement]] = {
            key: [read_measurement(config.measurement(run, kind)) for run in group]
            for key, group in groups.items()
        }
        self.bootstrap = SeedBootstrap(config.count, config.seed)

    def ratios(self, key: tuple[Any, ...], figure: str) -> list[Ratio]:
        """A figure of a group, one ratio a seed."""
        return [one.ratios[figure] for one in self.measured[key]]

    def figures(self, key: tuple[Any, ...]) -> dict[str, Figure]:
        """All figures of a group, with intervals."""
        return {
            name: self.bootstrap.figure(self.ratios(key, name))
            for name in self.measured[key][0].ratios
        }

    def row(self, key: tuple[Any, ...], labels: dict[str, Label]) -> Row:
        """The row of a group; its number of seeds is the last label."""
        counted = {**labels, "seeds": len(self._runs[key])}
        return Row(counted, self._config.count, self.figures(key))

    def difference(self, figure: str, a: tuple[Any, ...], b: tuple[Any, ...]) -> Figure:
        """A figure of one group minus that of another."""
        return self.bootstrap.difference(self.ratios(a, figure), self.ratios(b, figure))

    def provenance(self, evaluation: str) -> dict[str, Any]:
        """How a result was made, with the records of the runs by name."""
        groups = self._runs.items()
        frozen = self._config.frozen()
        return {
            "evaluation": evaluation,
            "config": self._config.model_dump(mode="json"),
            "environment": environment(),
            "frozen_sha256": folder_hash(frozen.folder, frozen.components),
            "runs": {
                run.name: dict(measured.run)
                for key, group in groups
                for run, measured in zip(group, self.measured[key], strict=True)
            },
        }
