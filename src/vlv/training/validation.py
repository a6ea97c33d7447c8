"""What a run computes beside its steps: validation, the best weights, and the finished model."""

import logging
from pathlib import Path

import torch

from vlv.errors import TrainingError
from vlv.files import atomic_file
from vlv.training.best_weights import BestWeights
from vlv.training.provenance import RECORD, read_record, write_record
from vlv.training.run import Run
from vlv.training.run_folder import writing
from vlv.training.sharding import gather_for_export, outside_of_steps

logger = logging.getLogger(__name__)


class Validation:
    """Validates and exports, by the average of weights where one is kept. All processes have to
    call.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def _computes(self) -> bool:
        """Whether this process takes part: the first one that has all weights, or all that have
        parts of them.
        """
        return self._run.sharded or self._run.writes

    def validate(self) -> None:
        """Log the metrics of validation and its picture."""
        run = self._run
        with run.heartbeat.busy("validation"), run.throughput.validation():
            if self._computes:
                self._validate()

    def patience_is_lost(self) -> bool:
        """Whether the run got no better for as many validations as `patience` allows."""
        patience, best = self._run.config.patience, self._run.state.best
        lost = patience is not None and best is not None and best.overtaken >= patience
        return self._run.processes.anyone(lost)

    def _validate(self) -> None:
        run, state = self._run, self._run.state
        run.objective.eval()
        with torch.no_grad(), state.ema_weights():
            with outside_of_steps(run.objective):
                metrics = self._metrics()
                picture = run.objective.picture() if run.config.validation_picture else None
            if state.best is not None:
                state.best.offer(metrics, state.step, state.parameters, writes=run.writes)
        run.log({f"validation/{name}": value for name, value in metrics.items()})
        if picture is not None and run.writes:
            path = run.output_dir / "samples" / f"step-{state.step}.png"
            with writing(path):
                path.parent.mkdir(exist_ok=True)
                with atomic_file(path) as unfinished:
                    picture.save(unfinished, "PNG")

    def _metrics(self) -> dict[str, float]:
        run = self._run
        metrics = run.objective.validate()
        # What follows from them has to be the same on all processes, to the last bit.
        return run.processes.from_first(metrics) if run.sharded else metrics

    @torch.no_grad()
    def finish(self) -> Path:
        """Export the best weights, or else the last; returns the folder."""
        run, state = self._run, self._run.state
        with state.ema_weights():
            if state.best is not None and self._computes:
                self._load_best(state.best)
            with run.heartbeat.busy("export"):
                with outside_of_steps(run.objective):
                    run.objective.finish()
                return self._export()

    def _load_best(self, best: BestWeights) -> None:
        run, state = self._run, self._run.state
        if best.step is not None:
            best.load_into(state.parameters)
        elif run.writes:
            logger.warning(
                "%s keeps no best weights of step %d or before: the last ones are exported",
                *(run.output_dir, state.step),
            )

    def exported(self) -> Path | None:
        """The folder that this run exported after its last step, if it is complete. Another export
        could differ from it, and from what was made of it, in last digits.
        """
        run, final = self._run, self._final
        this = run.record({}, {})

        def complete() -> bool:
            try:
                record = read_record(final) if run.writes else {}
            except TrainingError:
                return False
            return all(record.get(key) == this[key] for key in ("steps", "seconds"))

        return final if run.processes.from_first(complete()) else None

    @property
    def _final(self) -> Path:
        return self._run.output_dir / "final"

    def _export(self) -> Path:
        run, final = self._run, self._final
        counts = run.total_counts()
        run.objective.eval()
        if self._computes:
            with outside_of_steps(run.objective), run.throughput.phase("last_validation"):
                metrics = self._metrics()
        if run.sharded:
            gather_for_export(run.objective, keep=run.writes)
        if run.writes:
            with writing(final), run.throughput.phase("export"):
                final.mkdir(exist_ok=True)
                # The record marks the folder as done: it goes first and comes last.
                (final / RECORD).unlink(missing_ok=True)
                run.objective.export(final)
            write_record(final, run.record(metrics, counts))
        return final
