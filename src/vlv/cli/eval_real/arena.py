"""`vlv eval arena`: captions rated by judges, on real images or in the embedded world."""

import json
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
from vlv.cli.options.endpoints import DEFAULT_MAX_SIDE, MaxSentSideOption
from vlv.cli.options.files import JsonOption
from vlv.cli.options.headings import ENDPOINT, INPUT, OUTPUT
from vlv.text import counted, printable

if TYPE_CHECKING:
    from vlv.evaluation.real.arena_images import Arena
    from vlv.evaluation.real.judging import Asked
    from vlv.evaluation.results import Result

FOLDER = Path("vlv-eval-arena")
RATINGS, VERDICTS, PAGE = "ratings.jsonl", "verdicts.jsonl", "arena.html"


def arena(
    context: typer.Context,
    words: SetOrFieldsArgument = None,
    captions: CaptionFilesOption = None,
    endpoint: EndpointOptions = EndpointOptions(),  # noqa: B008
    pairwise: Annotated[
        bool,
        typer.Option(
            "--pairwise",
            help="Compare captions in pairs, in both orders, in place of scores.",
            rich_help_panel=ENDPOINT,
        ),
    ] = False,
    human: Annotated[
        Path | None,
        typer.Option(
            "--human",
            help="Write a page on which people rate the captions, and ask no judge.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    collect: Annotated[
        list[Path] | None,
        typer.Option(
            "--collect",
            help="A file of ratings that the page saved. May be repeated.",
            rich_help_panel=INPUT,
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="The first images only.", rich_help_panel=INPUT),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            help="Seed of the order of captions and of the intervals.",
            rich_help_panel=INPUT,
        ),
    ] = 0,
    max_side: MaxSentSideOption = DEFAULT_MAX_SIDE,
    config: ConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="With SET, the folder of results and paid answers, vlv-eval-arena by default; "
            "without it, the file of the result.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Captions rated from 0 to 6 (table 2): of real images by judges, or in the embedded world.

    With SET, vision-language models rate the captions of each image, or compare them with
    --pairwise. Captioners are never named to them, and their order is drawn for each image. --human
    writes a page for people instead; --collect reads their ratings, beside those of judges where
    some are named. The same command continues a run that was interrupted, and pays for no answer
    twice. Images without an answer are named, and the exit code is then 1.
    """
    source = set_of(words)
    if source is None:
        table(context, words, config, output, as_json)
        return
    from vlv.errors import ConfigError

    judges = endpoint.judges()
    found = _arena(source, captions or [], limit, seed)
    folder = output or FOLDER
    if human is not None:
        if collect or judges:
            raise ConfigError("--human only writes the page; judge and collect without it")
        _write_page(found, human, max_side, as_json)
        return
    if not judges and not collect:
        raise ConfigError("name a judge with --base-url and --model or --judge, or use --human")
    if pairwise and collect:
        raise ConfigError("--collect reads scores of people; use it without --pairwise")
    if pairwise:
        _compare(found, endpoint, folder, max_side, as_json)
    else:
        _rate(found, endpoint, folder, max_side, collect or [], as_json)


def _arena(source: Path, captions: list[str], limit: int | None, seed: int) -> "Arena":
    from vlv.errors import ConfigError
    from vlv.evaluation.real.arena_images import Arena, read_captioners, set_images

    if not captions:
        raise ConfigError("name captions files with --captions NAME=FILE")
    texts = read_captioners(captions, set_images(source))
    return Arena(source, texts, limit, seed)


def _write_page(arena: "Arena", path: Path, max_side: int, as_json: bool) -> None:
    from vlv.errors import ConfigError
    from vlv.evaluation.real.arena_page import write_page

    if path.is_dir() or path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--human {printable(path)} is no name of a page, such as rate.html")
    count, left_out = write_page(arena, path, max_side)
    if as_json:
        typer.echo(json.dumps({"out": str(path), "images": count, "left_out": len(left_out)}))
    else:
        each = counted(len(arena.captioners), "caption")
        typer.echo(f"{printable(path)}: {counted(count, 'image')}, {each} each")
    exit_after(left_out=left_out)


def _rate(
    arena: "Arena",
    endpoint: EndpointOptions,
    folder: Path,
    max_side: int,
    collect: list[Path],
    as_json: bool,
) -> None:
    from functools import partial

    from vlv.errors import ConfigError
    from vlv.evaluation.real.agreement import require_krippendorff
    from vlv.evaluation.real.arena import (
        JUDGES,
        PEOPLE,
        Scores,
        arena_result,
        questions,
        rating_lines,
        scores_of,
    )
    from vlv.evaluation.real.arena_page import read_ratings
    from vlv.evaluation.real.judged_page import ratings_page
    from vlv.evaluation.real.judging import Asked

    judges = endpoint.judges()
    people = read_ratings(arena, collect)
    if taken := people.keys() & {PEOPLE, JUDGES, *(one.name for one in judges)}:
        raise ConfigError(
            f"a person and a judge are called {printable(min(taken))}; change the name in the file "
            "of ratings, or name the judge with --judge NAME=URL#MODEL"
        )
    if len(judges) + len(people) > 1:
        require_krippendorff()  # before anything is paid for
    asked = Asked()
    if judges:
        asked = endpoint.ask(
            judges,
            partial(questions, arena, max_side),
            folder,
            "judging captions",
            images=1,
            usual_tokens=60 * len(arena.captioners),
        )
    if endpoint.dry_run:
        return
    judged = scores_of(arena, asked.values)
    scores = Scores({**judged.ratings, **people}, judged.places, judged.reasons)
    about = _provenance(arena, endpoint, asked) | {"people": sorted(people)}
    result = arena_result(arena, scores, about, list(people))
    write_results(folder, result, rating_lines(arena, scores), RATINGS)
    page = ratings_page(result, arena, scores)
    _report(arena, result, page, RATINGS, folder, asked, as_json)


def _compare(
    arena: "Arena", endpoint: EndpointOptions, folder: Path, max_side: int, as_json: bool
) -> None:
    from functools import partial

    from vlv.evaluation.real.agreement import require_krippendorff
    from vlv.evaluation.real.arena_pairs import pair_lines, pair_questions, pairs_result
    from vlv.evaluation.real.judged_page import verdicts_page

    judges = endpoint.judges()
    if len(judges) > 1:
        require_krippendorff()  # before anything is paid for
    asked = endpoint.ask(
        judges,
        partial(pair_questions, arena, max_side),
        folder,
        "judging captions",
        images=1,
        usual_tokens=80,
    )
    if endpoint.dry_run:
        return
    result = pairs_result(arena, asked.values, _provenance(arena, endpoint, asked))
    write_results(folder, result, pair_lines(arena, asked.values), VERDICTS)
    page = verdicts_page(result, arena, pair_lines(arena, asked.values))
    _report(arena, result, page, VERDICTS, folder, asked, as_json)


def _provenance(arena: "Arena", endpoint: EndpointOptions, asked: "Asked") -> dict[str, Any]:
    from dataclasses import asdict

    from vlv.evaluation.results import environment

    return {
        "set": str(arena.source),
        "captioners": arena.captioners,
        "limit": arena.limit,
        "seed": arena.seed,
        "judges": [asdict(judge) for judge in endpoint.judges()],
        **asked.as_json(),
        "left_out": len(arena.left_out),
        "undescribed": arena.undescribed,
        "environment": environment(),
    }


def _report(
    arena: "Arena",
    result: "Result",
    page: str,
    lines_file: str,
    folder: Path,
    asked: "Asked",
    as_json: bool,
) -> None:
    from vlv.files import write_text

    write_text(folder / PAGE, page)
    print_results(result, (folder / RESULT, folder / lines_file, folder / PAGE), as_json)
    exit_after(asked, arena.left_out)
