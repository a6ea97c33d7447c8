"""Is `vlv cost --measure` right? Its forecast of a run on this machine against the run itself.

    python benchmarks/cost_measure.py [--steps 500] [--measure 20] [--json FILE]

Stage 1 of the mini, through the decoder of the bundled model, on one thread, with few pictures a
step and few held out, so that it takes minutes. The forecast and the
run are compared by the clock, which other work on the machine disturbs, and by CPU time, which it
disturbs less.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from vlv.training.cost.text import bill_json
from vlv.training.loop import train
from vlv.training.pricing import price_run
from vlv.training.provenance import read_record
from vlv.training.registry import build_stage
from vlv.training.reproduce import configs_folder

CONFIG = configs_folder() / "mini" / "stage1.yaml"


def compare(steps: int, measured: int, batch: int) -> dict[str, Any]:
    """Seconds and CPU seconds of a run, forecast and real."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            f"output_dir={folder}/run",
            f"data.folder={folder}/world",
            f"data.count={batch * steps}",
            *("decoder=vlv-mini", "num_threads=1", "report_to=none", "validation_count=16"),
            *(f"train_batch_size={batch}", f"max_train_steps={steps}"),
        ]
        forecast = bill_json(price_run(CONFIG, overrides, measure=measured))
        record = read_record(train(build_stage("stage1", CONFIG, overrides)))
    real_cpu = sum(phase["cpu_seconds"] for phase in record["phases"].values())
    figures = {
        "steps": steps,
        "measured_steps": measured,
        "batch": batch,
        "device": record["device"]["name"],
        "torch": record["torch"],
        "seconds": compared(forecast["seconds"]["total"], record["elapsed_seconds"]),
        "cpu_seconds": compared(forecast["cpu_seconds"]["total"], real_cpu),
    }
    return figures


def compared(forecast: float, real: float) -> dict[str, float]:
    return {
        "forecast": round(forecast, 1),
        "real": round(real, 1),
        "error": round(forecast / real - 1, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--measure", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    text = json.dumps(compare(given.steps, given.measure, given.batch), indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
