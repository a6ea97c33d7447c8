"""`vlv eval verify`: marks of sentences against labels of people, or in the embedded world."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.common import was_given
from vlv.cli.eval_real.results import exit_after, print_results
from vlv.cli.eval_real.sets import SetOrFieldsArgument, set_of
from vlv.cli.evaluate import ConfigOption, table
from vlv.cli.option_groups import OffloadModelOptions
from vlv.cli.options.captions import DEFAULT_FALSE_ALARM_RATE, FalseAlarmRateOption
from vlv.cli.options.files import JsonOption
from vlv.cli.options.headings import INPUT

FOLDER = Path("vlv-eval-verify")
# Options that are not of the table in the embedded world.
_OF_SETS = ("labels", "limit", "others", "false_alarm_rate", "seed")


def verify(
    context: typer.Context,
    model: OffloadModelOptions,
    words: SetOrFieldsArgument = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="Labels of the sentences of captions, as lines of JSON.",
            rich_help_panel=INPUT,
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="The first labelled images only.", rich_help_panel=INPUT
        ),
    ] = None,
    others: Annotated[
        int,
        typer.Option(
            "--others",
            min=0,
            help="Captions that are judged at another image too, where none is true.",
            rich_help_panel=INPUT,
        ),
    ] = 50,
    false_alarm_rate: FalseAlarmRateOption = DEFAULT_FALSE_ALARM_RATE,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            help="Seed of the halves of the images and of the intervals.",
            rich_help_panel=INPUT,
        ),
    ] = 0,
    config: ConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="With SET, the folder of marks, result and page, vlv-eval-verify by default; "
            "without it, the file of the result.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """How well wrong sentences are found: on real images with labels, or in the embedded world.

    With SET, the model's verifier judges every labelled caption, and the marks are compared with
    the labels: AUROC with that of the language model's likelihood, calibration, and the rate of
    false alarms that split conformal control reaches. Some captions are judged at another image
    too. The page on captions of real images has the form of the labels. The same command continues
    a run that was interrupted. Images and lines that were left out are named, and the exit code is
    then 1.
    """
    from vlv.errors import ConfigError

    source = set_of(words)
    if source is None:
        _check_world(context)
        table(context, words, config, output, as_json)
        return
    if labels is None:
        raise ConfigError("name the labels of the sentences with --labels FILE")
    from vlv.cli.common import progress
    from vlv.evaluation.real.sentence_run import MARKS, PAGE, RESULT, MarksSettings, measure_marks

    folder = output or FOLDER
    settings = MarksSettings(source, labels, folder, limit, others, false_alarm_rate, seed)
    measured = measure_marks(settings, model.open(), model.model, progress)
    print_results(measured.result, (folder / RESULT, folder / MARKS, folder / PAGE), as_json)
    exit_after(left_out=measured.left_out)


def _check_world(context: typer.Context) -> None:
    """Raise ConfigError for options of real images where no set is named."""
    from vlv.errors import ConfigError

    for name in (*(field.name for field in fields(OffloadModelOptions)), *_OF_SETS):
        if was_given(context, name):
            raise ConfigError(
                f"--{name.replace('_', '-')} needs a set of real images; the table in the embedded "
                "world takes fields such as model=FOLDER"
            )
