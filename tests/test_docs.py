"""The documentation: its commands run as written, its links lead somewhere."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from PIL import Image
from skimage import data
from tests import launcher
from tests.checkpoints.authors_layout import authors_state
from tests.checkpoints.hub import tiny_hub
from tests.serving.conftest import start, stop

from vlv.cli.app import build
from vlv.world.render import render
from vlv.world.scene import sample_scene

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.md")]
)
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A block that begins like this needs more than a test has: time, a network, a clone.
NEEDS = "# needs: "
# ... and one that begins like this needs the Hub, which a test has in miniature.
HUB = "# needs: the Hub"
# ... and one that begins like this sends requests to the service.
SERVER = "# needs: a running server"
# Commands within sentences and tables.
INLINE = re.compile(r"`(vlv [^`]+)`")
# What the block before it prints, at the end; `-m docs` compares, and this variable lets it write.
PRINTED = re.compile(r"^<!--printed-->\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
UPDATE = "VLV_TESTS_UPDATE_PAGES"
NUMBER = re.compile(r"\d+(?:\.\d+)?")
# These name commands that are gone, too.
HISTORY = ("CHANGELOG.md", "lab_log.md")
# What docs/reference.py writes: signatures, which are no code to run.
GENERATED = re.compile(r"^<!-- \w+(: \S+)? -->$.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
# The README's two commands install the project; CI runs them word for word.
INSTALLS = "<!-- command: "
OF_EVERY_COMMAND = ("--help", "--version", "--install-completion")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, code) of the page's blocks, without the README's two commands."""
    text = GENERATED.sub("", page.read_text(encoding="utf-8"))
    found = []
    for match in BLOCK.finditer(text):
        before = text[: match.start()].rstrip().rpartition("\n")[2]
        if not before.startswith(INSTALLS):
            found.append((match[1], match[2]))
    return found


def runnable(page: Path) -> list[tuple[str, str]]:
    return [block for block in blocks(page) if not block[1].startswith(NEEDS)]


def of_the_hub(page: Path) -> list[tuple[str, str]]:
    return [block for block in blocks(page) if block[1].startswith(HUB)]


def printed_after(page: Path) -> list[str | None]:
    """What the page says that each runnable block prints, where it does."""
    text = page.read_text(encoding="utf-8")
    runs = [*BLOCK.finditer(text)]
    said = []
    for match, following in zip(runs, [*runs[1:], None], strict=True):
        if (match[1], match[2]) in runnable(page):
            found = PRINTED.search(text, match.end(), following.start() if following else len(text))
            said.append(found[1] if found else None)
    return said


def same_but_for_rounding(one: str, other: str) -> bool:
    """Numbers may differ by a last digit, as between processors."""
    numbers = ([float(part) for part in NUMBER.findall(text)] for text in (one, other))
    return NUMBER.split(one) == NUMBER.split(other) and all(
        abs(a - b) <= 1 for a, b in zip(*numbers, strict=True)
    )


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run_blocks(
    found: list[tuple[str, str]],
    folder: Path,
    programs: Path,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Run the blocks of a page in order, in one folder, with the `vlv` and `python` of another.

    Returns what each printed.
    """
    printed = []
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    for language, code in found:
        command = (
            [str(programs / "python"), "-c", code]
            if language == "python"
            else ["bash", "-euo", "pipefail", "-c", code]
        )
        ran = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **environment, "PATH": path},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert ran.returncode == 0, f"{code}\n{ran.stdout}\n{ran.stderr}"
        printed.append(ran.stdout)
    return printed


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vlv` and `python`, which start at once."""
    return launcher.programs(tmp_path_factory.mktemp("launcher") / "bin")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the Hub holds tiny models under the real ids."""
    return tiny_hub(tmp_path_factory.mktemp("hub"))


@pytest.mark.docs
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name)
def test_the_commands_of_a_page_run_as_written(page: Path, tmp_path: Path, programs: Path) -> None:
    """In a folder that holds a picture `scene.png`. They print what the page says."""
    Image.fromarray(render(sample_scene(1, "test"))).save(tmp_path / "scene.png")
    for printed, said in zip(
        run_blocks(runnable(page), tmp_path, programs), printed_after(page), strict=True
    ):
        if said is None:
            continue
        end = "".join(printed.splitlines(keepends=True)[-said.count("\n") :])
        if UPDATE in os.environ:
            page.write_text(page.read_text("utf-8").replace(said, end), "utf-8")
        else:
            assert same_but_for_rounding(end, said), f"{UPDATE}=1 writes {page}:\n{end}"


@pytest.mark.docs
@pytest.mark.parametrize("page", [page for page in PAGES if of_the_hub(page)], ids=name)
def test_commands_that_need_the_hub_run_in_miniature(
    page: Path, tmp_path: Path, programs: Path, hub: dict[str, str]
) -> None:
    """As written, on a photograph; `model.pt` is the authors'."""
    Image.fromarray(data.astronaut()).save(tmp_path / "photo.jpg")
    torch.save(authors_state(1, 2), tmp_path / "model.pt")
    run_blocks(of_the_hub(page), tmp_path, programs, hub)


@pytest.mark.docs
def test_requests_of_the_page_on_the_service_are_answered(tmp_path: Path, programs: Path) -> None:
    """As written but for the port; the blocks in Python are one program."""
    Image.fromarray(render(sample_scene(1, "test"))).save(tmp_path / "scene.png")
    page = blocks(ROOT / "docs" / "service.md")
    shown = [block for block in page if block[1].startswith(SERVER)]
    python = [code for language, code in shown if language == "python"]
    shell = [(language, code) for language, code in shown if language == "bash"]
    server = start(tmp_path / "log")
    try:
        address = server.url.removeprefix("http://")
        found = [
            (language, code.replace("127.0.0.1:8000", address))
            for language, code in [("python", "\n".join(python)), *shell]
        ]
        openai, ours, of_z, ollama = run_blocks(found, tmp_path, programs)
    finally:
        stop(server)
    written, parsed = openai.splitlines()
    assert written == parsed == json.loads(ours)["caption"] == json.loads(ollama)["response"] != ""
    assert json.loads(of_z)["caption"] == written


def vlv_calls(code: str) -> Iterator[list[str]]:
    """The arguments of every `vlv` call in a block of shell code."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();<>|&"):
                words.append(word)
                continue
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words[:1] == ["vlv"]:
                yield words[1:]
            words = []


def shown_calls() -> list[tuple[str, list[str]]]:
    """(page, arguments) of every `vlv ...` in the docs, those that need something among them."""
    in_blocks = [
        (name(page), call)
        for page in PAGES
        for language, code in blocks(page)
        if language == "bash"
        for call in vlv_calls(code)
    ]
    in_text = [
        (name(page), call)
        for page in PAGES
        if page.name not in HISTORY
        for line in sorted(set(INLINE.findall(BLOCK.sub("", page.read_text("utf-8")))))
        for call in vlv_calls(line)
    ]
    return [*in_blocks, *in_text]


def parse(arguments: list[str]) -> None:
    """Fail unless the command and all its flags exist; files and the last flag's value need not."""
    command: Any = build()
    ctx: Any = None
    words = [word for word in arguments if word not in OF_EVERY_COMMAND]
    title = "vlv"
    while hasattr(command, "resolve_command"):
        if not words or words[0].isupper():  # stands for the command that a reader chooses
            return
        ctx = command.make_context(title, words, parent=ctx)
        title, command, words = command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
    if words and words[-1].startswith("--"):
        words.append("1")
    ctx = type(ctx)(command, info_name=title, parent=ctx)
    command.make_parser(ctx).parse_args(list(words))


CALLS = shown_calls()


@pytest.mark.parametrize(("page", "call"), CALLS, ids=[f"{p} {' '.join(c)}" for p, c in CALLS])
def test_every_command_that_is_shown_exists_with_its_flags(page: str, call: list[str]) -> None:
    parse(call)
    assert [w for w in call if w.startswith("configs/") and not (ROOT / w).is_file()] == [], page


def test_the_check_of_commands_finds_what_does_not_exist() -> None:
    code = (
        "A=1 vlv world render --out x \\\n  --count 3 > log && vlv doctor # why\nls vlv; vlv models"
    )
    assert list(vlv_calls(code)) == [
        ["world", "render", "--out", "x", "--count", "3"],
        ["doctor"],
        ["models"],
    ]
    parse(["world", "render", "--shard_size", "3"])
    for wrong in (
        ["captoin"],
        ["world", "rendr"],
        ["doctor", "--jsno"],
        ["world", "render", "--sed"],
        ["caption", "--batch-size", "2", "--beams"],
    ):
        with pytest.raises(Exception, match=r"[Nn]o such"):
            parse(wrong)


def test_tables_are_those_of_the_report_and_the_weights() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "tables.py"))["pages"]()
    assert len(made) > 4
    for page, text in made.items():
        assert text == (ROOT / page).read_text("utf-8"), f"python docs/tables.py writes {page}"


def test_the_verify_page_states_its_score_and_its_weakest_figures() -> None:
    def figures(report: str, part: str) -> dict[str, dict[str, dict[str, float]]]:
        rows = json.loads((ROOT / "docs" / report).read_text("utf-8"))["rows"]
        return {
            row["labels"]["what"]: row["figures"] for row in rows if row["labels"]["part"] == part
        }

    scores = figures("eval_verify.json", "scores, own captions")
    ours, likelihood = scores["best other word"]["auroc"], scores["language model: mean"]["auroc"]
    errors = figures("eval_verify.json", "errors")
    count = figures("eval_verify_counts.json", "errors")["count"]["auroc"]
    page = " ".join((ROOT / "docs" / "verify.md").read_text("utf-8").split())
    assert (
        f"an AUROC of {ours['value']:.2f} (95% interval {ours['low']:.2f} to {ours['high']:.2f}). "
        f"The likelihood of the language model reaches {likelihood['value']:.2f}."
    ) in page
    assert f"it is {errors['own captions']['false_alarms']['value']:.0%} where 5% was set" in page
    beside = [kind["false_alarms"]["value"] for kind in errors.values()]
    assert f"beside planted errors {min(beside):.0%} to {max(beside):.0%}" in page
    styles = figures("eval_renderer.json", "styles").values()
    highest = max(style["false_alarms"]["value"] for style in styles)
    assert f"it is up to {highest:.0%}" in page
    assert f"the AUROC is {count['value']:.2f}" in page


def test_the_readme_fits_one_screen() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 700


@pytest.mark.parametrize("plot", ["auroc_by_kind", "reliability"])
def test_plots_of_checks_are_those_of_the_report(plot: str) -> None:
    script = runpy.run_path(str(ROOT / "docs" / "images" / "verify_plots.py"))
    kept = {path.read_text("utf-8") for path in (ROOT / "docs" / "images").glob("verify-*.svg")}
    assert script[plot]() in kept


def test_the_plot_of_first_embeddings_is_that_of_the_report() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "images" / "nested_plot.py"))
    assert script["by_queries"]() == (ROOT / "docs" / "images" / "nested.svg").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{name(page)}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in slugs, f"{name(page)}: {target}"


def test_the_first_page_names_all_pages() -> None:
    text = (ROOT / "docs" / "index.md").read_text("utf-8")
    linked = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - linked == {"index.md"}


def test_the_commands_of_the_reliability_page_select_tests() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    commands = [shlex.split(one) for one in re.findall(r"`(pytest [^`]+)`", page)]
    assert len(commands) > 20
    for words in commands:
        file = next(word for word in words if word.startswith("tests/"))
        known = re.findall(r"^def (test_\w+)", (ROOT / file).read_text("utf-8"), re.MULTILINE)
        wanted = words[words.index("-k") + 1].split(" or ") if "-k" in words else ["test_"]
        for part in wanted:
            assert [name for name in known if part in name], f"{file}: {part}"


def test_the_check_of_what_is_printed_sees_words_and_large_differences(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\n# needs: time\n```\n\n<!--printed-->\n```text\nno\n```\n\n```bash\nls\n```\n\n"
        "It prints:\n\n<!--printed-->\n```text\na 86%\n```\n\n```bash\nls\n```\n"
    )
    assert printed_after(page) == ["a 86%\n", None]
    assert same_but_for_rounding("a 86%", "a 85.4%")
    assert not same_but_for_rounding("a 86%", "a 80%")
    assert not same_but_for_rounding("a red cube 86%", "a red cone 86%")
    assert not same_but_for_rounding("a 86%", "a 86% b")
