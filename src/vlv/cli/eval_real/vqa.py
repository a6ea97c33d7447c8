"""`vlv eval vqa`: questions answered from captions, on real images or in the embedded world."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlv.cli.eval_real.endpoint_options import EndpointOptions
from vlv.cli.eval_real.results import (
    RESULT,
    exit_after,
    print_results,
    write_results,
)
from vlv.cli.eval_real.sets import CaptionFilesOption, SetOrFieldsArgument, set_of
from vlv.cli.evaluate import ConfigOption, table
from vlv.cli.options.files import JsonOption
from vlv.cli.options.headings import INPUT

if TYPE_CHECKING:
    from vlv.evaluation.real.vqa import VQA
    from vlv.evaluation.real.vqa_questions import Examples, ImageId, VQAQuestion

FOLDER = Path("vlv-eval-vqa")
ANSWERS, PAGE = "answers.jsonl", "vqa.html"


def _file(flag: str, help: str) -> Any:
    return typer.Option(flag, help=help, rich_help_panel=INPUT, show_default=False)


def vqa(
    context: typer.Context,
    words: SetOrFieldsArgument = None,
    captions: CaptionFilesOption = None,
    questions: Annotated[
        Path | None, _file("--questions", "Questions of VQAv2 or OK-VQA: their JSON file.")
    ] = None,
    annotations: Annotated[
        Path | None, _file("--annotations", "The answers to them: their JSON file.")
    ] = None,
    shots: Annotated[
        list[int] | None,
        typer.Option(
            "--shots",
            min=0,
            help="Examples before each question, such as 0, 4 or 32. May be repeated.",
            rich_help_panel=INPUT,
            show_default="0",
        ),
    ] = None,
    shot_questions: Annotated[
        Path | None, _file("--shot-questions", "Training questions to draw examples from.")
    ] = None,
    shot_annotations: Annotated[
        Path | None, _file("--shot-annotations", "The answers to them.")
    ] = None,
    shot_captions: Annotated[
        list[str] | None,
        _file("--shot-captions", "NAME=FILE: captions of training images, one for each captioner."),
    ] = None,
    endpoint: EndpointOptions = EndpointOptions(),  # noqa: B008
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="The first questions only.", rich_help_panel=INPUT),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", help="Seed of the examples and of the intervals.", rich_help_panel=INPUT
        ),
    ] = 0,
    config: ConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="With SET, the folder of results and paid answers, vlv-eval-vqa by default; "
            "without it, the file of the result.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Questions answered from captions only (table 3): on real images, or in the embedded world.

    With SET, whose images are named as COCO names them or as the questions do, a language model
    behind an endpoint answers questions of VQAv2 or OK-VQA from the caption of the image, and the
    answers are compared with those of people as VQA does. The same command continues a run that was
    interrupted, and pays for no answer twice. Questions without a usable answer count as wrong;
    they are named, and the exit code is then 1.
    """
    source = set_of(words)
    if source is None:
        table(context, words, config, output, as_json)
        return
    from dataclasses import asdict

    from vlv.errors import ConfigError
    from vlv.evaluation.real.judged_page import answers_page
    from vlv.evaluation.real.vqa import answer_lines, vqa_result
    from vlv.evaluation.real.vqa_questions import read_questions
    from vlv.evaluation.results import environment
    from vlv.files import write_text

    judges = endpoint.judges()
    if questions is None or annotations is None or not captions:
        raise ConfigError("name --questions, --annotations and --captions NAME=FILE")
    if not judges:
        raise ConfigError("name a language model with --base-url and --model or --judge")
    asked_about = read_questions(questions, annotations)
    named = _captioners(captions, "--captions", asked_about)
    examples = None
    if shot_questions is not None and shot_annotations is not None and shot_captions:
        examples = _examples(shot_questions, shot_annotations, shot_captions, set(named), seed)
    found = _vqa(source, asked_about, named, shots or [0], examples, seed, limit)
    folder = output or FOLDER
    asked = endpoint.ask(
        judges, found.chats, folder, "answering questions", images=0, usual_tokens=4
    )
    if endpoint.dry_run:
        return
    provenance = {
        "set": str(source),
        "questions": str(questions),
        "annotations": str(annotations),
        "captioners": list(named),
        "shots": list(found.shots),
        "limit": limit,
        "seed": seed,
        "models": [asdict(judge) for judge in judges],
        **asked.as_json(),
        "left_out": found.left_out,
        "environment": environment(),
    }
    refused = [one.name for one in asked.refused]
    result = vqa_result(found, asked.values, refused, provenance)
    write_results(folder, result, answer_lines(found, asked.values), ANSWERS)
    page = answers_page(result, found, answer_lines(found, asked.values))
    write_text(folder / PAGE, page)
    print_results(result, (folder / RESULT, folder / ANSWERS, folder / PAGE), as_json)
    exit_after(asked)


def _captioners(
    words: list[str], option: str, questions: "list[VQAQuestion]"
) -> "dict[str, dict[ImageId, str]]":
    from vlv.evaluation.real.captions_file import named_files
    from vlv.evaluation.real.vqa_questions import captions_by_image

    return {
        name: captions_by_image(file, questions)
        for name, file in named_files(words, option).items()
    }


def _examples(
    questions: Path, annotations: Path, captions: list[str], captioners: set[str], seed: int
) -> "Examples":
    from vlv.errors import ConfigError
    from vlv.evaluation.real.vqa_questions import Examples, read_questions

    asked = read_questions(questions, annotations)
    named = _captioners(captions, "--shot-captions", asked)
    if named.keys() != captioners:
        raise ConfigError(
            "--shot-captions and --captions name the same captioners: examples have captions of "
            "the captioner that is measured"
        )
    return Examples(asked, named, seed)


def _vqa(
    source: Path,
    questions: "list[VQAQuestion]",
    captions: "dict[str, dict[ImageId, str]]",
    shots: list[int],
    examples: "Examples | None",
    seed: int,
    limit: int | None,
) -> "VQA":
    from vlv.evaluation.real.arena_images import set_images
    from vlv.evaluation.real.vqa import VQA

    found = VQA(source, questions, captions, shots, examples, seed)
    found.keep(list(set_images(source)), limit)
    return found
