"""A run of `vlv caption`: who writes the captions, which images wait for them, and what is said of
the images on standard error.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from vlv.cli.caption_output import Made, Output, report_unsupported
from vlv.cli.caption_plan import Plan, load_for, show_plan, trial, with_preview
from vlv.cli.common import (
    Failures,
    is_fine_tune,
    is_seen,
    note_differences,
    progress,
    smallest,
    warn_of_ood,
)
from vlv.cli.option_groups import (
    CheckOptions,
    EngineOptions,
    GenerationOptions,
    PresetModelOptions,
)
from vlv.text import begun_with, counted

if TYPE_CHECKING:
    from vlv.inference.batching import BatchSize
    from vlv.inference.captioning import CaptionSettings
    from vlv.inference.engines.engine import CaptionEngine
    from vlv.inference.engines.prompts import Prompts
    from vlv.inference.records import Captioned, ImageInput, Refused
    from vlv.models.vlv import VLVModel


@dataclass(frozen=True)
class Captioner:
    """An opened model with what writes its captions, and what is done to them."""

    model: "VLVModel"
    settings: "CaptionSettings"
    checks: CheckOptions
    size: "BatchSize"
    engine: "CaptionEngine | None"
    prompts: "Prompts | None"

    def results(self, waiting: "Waiting") -> "Iterator[Captioned | Refused]":
        """The captions of the images, checked if that was asked for."""
        from vlv.inference.captioning import caption_images
        from vlv.inference.verification import check_captions

        results = caption_images(
            self.model,
            waiting,
            self.settings,
            batch_size=self.size,
            skip_ood=self.checks.skip_ood,
            engine=self.engine,
            prompts=self.prompts,
        )
        checks = self.checks.settings
        return check_captions(self.model, results, checks) if checks.any else results

    def closed_after(self) -> AbstractContextManager[object]:
        """Closes the engine at the end of a `with`."""
        from vlv.inference.engine_choice import closed_after

        return closed_after(self.engine)


def open_captioner(
    model_options: PresetModelOptions,
    engine_options: EngineOptions,
    generation: GenerationOptions,
    checks: CheckOptions,
    size: "BatchSize | None",
) -> Captioner:
    """Open the model and its engine. Raises ConfigError and CheckpointError where they cannot do
    what was asked for.
    """
    from vlv.inference.encoding import default_batch_size

    preset, choice = model_options.chosen_preset, engine_options.choice
    settings = choice.settings(generation.settings(preset, **checks.sampling(generation)))
    model = model_options.open(choice.work(settings, smallest(size or 8)))
    note_differences(preset, model)
    checks.require(model, model_options.model)
    engine, prompts = choice.open(model, lambda line: typer.echo(f"vlv: {line}", err=True))
    return Captioner(model, settings, checks, size or default_batch_size(model), engine, prompts)


class Waiting:
    """Inputs on their way to the model; those that have a caption already are only counted."""

    def __init__(
        self, inputs: "Iterable[ImageInput | Refused]", out: Output, *, most: int | None
    ) -> None:
        """most: how many inputs are given; None is all."""
        self.left = 0
        self._inputs = inputs
        self._out = out
        self._most = most

    def __iter__(self) -> "Iterator[ImageInput | Refused]":
        from vlv.inference.records import ImageInput

        given = 0
        for one in self._inputs:
            if isinstance(one, ImageInput) and self._out.has(one.path):
                self.left += 1
                continue
            if given == self._most:
                return
            given += 1
            yield one


class Run:
    """Captions images, and reports what became of them."""

    def __init__(
        self,
        captioner: Captioner,
        waiting: Waiting,
        out: Output,
        plan: Plan,
        failures: Failures,
        as_json: bool,
    ) -> None:
        self._captioner = captioner
        self._waiting = waiting
        self._out = out
        self._plan = plan
        self._failures = failures
        self._as_json = as_json
        self._out_of_distribution: list[str] = []

    def try_out(self, generation: GenerationOptions, trigger: str) -> None:
        """Print what the run would do, and the captions of its first images."""
        model, engine = self._captioner.model, self._captioner.engine
        results = self._captioner.results(self._waiting)
        with self._captioner.closed_after():
            load_for(model, writes=engine is None)
            tried = trial(self._made(results, generation, trigger))
        show_plan(self._plan, tried, str(model.device), self._as_json)

    def write(self, generation: GenerationOptions, trigger: str, *, bare: bool) -> None:
        """Write the captions of all images; `bare` prints them without file names."""
        results = self._captioner.results(self._waiting)
        if not self._out.prints or not is_seen():
            total = None if self._plan.sets else self._plan.to_caption
            results = progress(results, total=total)
        made = self._made(results, generation, trigger)
        if not self._out.prints and not self._as_json:
            made = with_preview(made, self._plan)
        try:
            with self._captioner.closed_after():
                self._out.write(made, self._failures, bare=bare, as_json=self._as_json)
        finally:
            self._captioner.checks.list_ood(self._out_of_distribution)

    def report(self) -> None:
        """Say which images are out of distribution, and how many captions were written."""
        skips = self._captioner.checks.skip_ood
        names = self._out_of_distribution
        fine_tuned = is_fine_tune(self._captioner.model)
        warn_of_ood(len(names), names, skipped=skips, fine_tuned=fine_tuned)
        if not self._out.prints and not self._as_json:
            typer.echo(self._summary(skipped=len(names) if skips else 0))

    def _made(
        self,
        results: "Iterable[Captioned | Refused]",
        generation: GenerationOptions,
        trigger: str,
    ) -> Iterator[Made]:
        """The captioned images. Failures are reported, and names of out-of-distribution images are
        kept, as they come.
        """
        from vlv.inference.captioning import OUT_OF_DISTRIBUTION
        from vlv.inference.postprocess import surround
        from vlv.inference.records import Refused

        for result in results:
            if isinstance(result, Refused) and result.reason == OUT_OF_DISTRIBUTION:
                self._out_of_distribution.append(result.name)
                if self._as_json:
                    record = {"file_name": result.name, "in_distribution": False, "text": None}
                    typer.echo(json.dumps(record))
                continue
            if isinstance(result, Refused):
                self._failures.add(result)
                continue
            if result.in_distribution is False:
                self._out_of_distribution.append(result.name)
            report_unsupported(result)
            texts = [
                begun_with(trigger, surround(one, generation.prepend, generation.append))
                for one in result.texts
            ]
            yield Made(result, texts)

    def _summary(self, *, skipped: int) -> str:
        """What became of the images, in a line. skipped: those that are out of distribution."""
        parts = [f"{counted(self._out.written, 'caption')} written"]
        if left := self._plan.kept + self._waiting.left + self._out.kept_meanwhile:
            parts.append(f"{left} left as they are ({self._plan.way_to_replace})")
        if self._plan.shared:
            parts.append(f"{self._plan.shared} without a caption file of their own")
        if skipped:
            parts.append(f"{skipped} out-of-distribution skipped")
        return ", ".join([*parts, f"{self._failures.count} failed"])
