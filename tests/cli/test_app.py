"""The command `vlv` itself: listing, spelling of flags, errors, exit codes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from vlv import errors
from vlv.cli import app
from vlv.cli.lazy import LazyCommand, LazyGroup
from vlv.version import __version__


def test_help_lists_every_command(vlv: Callable) -> None:
    ran = vlv("--help")
    assert ran.code == 0
    for path in app.COMMANDS:
        assert path.split()[0] in ran.out
    assert vlv("world", "--help").code == 0
    assert "render" in vlv("world", "-h").out


def test_every_command_loads_and_explains_itself(vlv: Callable) -> None:
    for path in app.COMMANDS:
        ran = vlv(*path.split(), "--help")
        assert ran.code == 0, path
        assert f"vlv {path}" in ran.out


def test_version(vlv: Callable) -> None:
    assert vlv("--version").out == f"vlv {__version__}\n"


def test_windows_gets_a_sentence_that_says_what_to_do() -> None:
    """Where the locks of POSIX are missing, a command would end in a trace."""
    script = (
        "import sys; from vlv.cli import main; sys.platform = 'win32'; "
        "sys.modules['fcntl'] = None; main(['caption', 'missing.png'])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stderr.startswith("vlv: ") and "WSL 2" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_python_dash_m() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "vlv.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"vlv {__version__}\n"


def closed(stream: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run `vlv` by a shell that closes a stream, as `<&-`."""
    command = ["sh", "-c", f'exec "$@" {stream}', "sh", sys.executable, "-m", "vlv.cli"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("stream", "arguments", "message"),
    [
        ("<&-", ["caption", "-"], "standard input is closed, and - stands for it;"),
        ("<&-", ["caption", "--filelist", "-"], "standard input is closed, and - stands for it;"),
        (
            "<&-",
            ["encode", "-", "--out", "z.safetensors"],
            "standard input is closed, and - stands for it;",
        ),
        (">&-", ["caption", "a.png", "--json"], "standard output is closed, so that the results"),
        (">&-", ["verify", "a.png"], "standard output is closed, so that the results would be"),
    ],
)
def test_a_closed_stream_is_named(stream: str, arguments: list[str], message: str) -> None:
    ran = closed(stream, *arguments)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), ran.stderr
    assert ran.stderr.startswith(f"vlv: {message}")


def test_lines_of_a_closed_stream_go_nowhere_else(tmp_path: Path) -> None:
    ran = closed("2>&-", "caption", tmp_path / "missing.png")
    assert (ran.returncode, ran.stdout) == (1, "")
    for stream in (">&-", "2>&-", "<&- >&- 2>&-"):
        out = tmp_path / stream
        ran = closed(stream, "world", "render", "--count", "1", "--out", out)
        assert ran.returncode == 0, ran.stderr
        assert len(list(out.glob("*.png"))) == 1


def test_shell_completion_knows_commands_and_flags(
    monkeypatch: pytest.MonkeyPatch, vlv: Callable
) -> None:
    monkeypatch.setenv("_VLV_COMPLETE", "complete_bash")
    for words, expected in (("vlv wor", "world"), ("vlv world render --over", "--overwrite")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert expected in vlv().out.split()


def test_wrong_commands_and_flags_are_wrong_use(vlv: Callable) -> None:
    ran = vlv("captoin")
    assert ran.code == 2
    assert "caption" in ran.err
    assert vlv("doctor", "--jsno").code == 2
    assert vlv("world").code == 2


def test_a_file_that_looks_like_a_flag_gets_a_hint(
    vlv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, command in (("-dash.png", "caption"), ("--two_dashes.png", "encode")):
        assert "./" not in vlv(command, name).err
        Path(name).touch()
        ran = vlv(command, "a.png", name)
        assert ran.code == 2 and "No such option: -" in ran.err
        assert f"; a file has the name {name}: write ./{name}, or -- before it" in ran.err
        # After two dashes every word is a name.
        assert "./" not in vlv(command, "--nothing", "--", name).err


def probe(num_beams: int = 1, output_format: str = "txt") -> None:
    """A command for these tests."""
    typer.echo(f"{num_beams} {output_format}")


def fail(kind: str) -> None:
    """A command for these tests that fails."""
    if kind == "ImageError":
        raise errors.ImageError("corrupt", "x.png is corrupt")
    raise getattr(errors, kind)(f"{kind} happened")


@pytest.fixture
def with_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = {name: (f"{__name__}:{name}", "For tests.") for name in ("probe", "fail")}
    monkeypatch.setattr(app, "COMMANDS", app.COMMANDS | probes)


@pytest.mark.parametrize(
    ("words", "flag", "number"),
    [
        (("compose", "a.png", "b.png", "--keep-a", 1, "--keep-b", 1), "--guidance-scale", "inf"),
        (("caption", "a.png"), "--top-p", "nan"),
        (("serve",), "--timeout", "inf"),
    ],
)
def test_numbers_that_are_not_finite_are_wrong_use(
    vlv: Callable, words: tuple, flag: str, number: str
) -> None:
    ran = vlv(*words, flag, number)
    assert ran.code == 2 and flag in ran.err and f"{number} is not a finite number" in ran.err


def test_an_empty_name_is_not_the_current_folder(
    vlv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (
        ("caption", ""),
        ("caption", "a.png", ""),
        ("bulk", "", "out"),
        ("bulk", "a", ""),
    ):
        ran = vlv(*words)
        assert ran.code == 2 and "name is empty" in ran.err, words
    assert "there is no image in ." in vlv("caption", ".", "--append", "").err
    assert "name images or folders" in vlv("caption", "--append", "").err


def test_a_place_that_holds_something_is_not_replaced(vlv: Callable, tmp_path: Path) -> None:
    kept = vlv("export", "gguf", "vlv-mini", tmp_path)
    assert kept.code == 2
    assert "exists already; choose another name or give --overwrite" in kept.err


def test_values_keep_their_spelling(vlv: Callable) -> None:
    assert "<f32|f16|q8_0|q4_k_m>" in vlv("export", "gguf", "--help").out
    wrong = vlv("export", "gguf", "m", "out", "--quantize", "q9")
    assert wrong.code == 2 and "'q8_0', 'q4_k_m'" in wrong.err


@pytest.mark.usefixtures("with_probes")
def test_both_spellings_of_flags_work(vlv: Callable) -> None:
    for beams in ("--num-beams", "--num_beams"):
        for output in ("--output-format", "--output_format"):
            assert vlv("probe", beams, 4, output, "a_b").out == "4 a_b\n"
            assert vlv("probe", f"{beams}=4", f"{output}=a_b").out == "4 a_b\n"


@pytest.mark.usefixtures("with_probes")
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("ImageError", 1),
        ("DatasetError", 1),
        ("TrainingError", 1),
        ("ConfigError", 2),
        ("CheckpointError", 3),
        ("WorldError", 2),
    ],
)
def test_errors_are_one_line_and_an_exit_code(vlv: Callable, kind: str, code: int) -> None:
    ran = vlv("fail", kind)
    message = "x.png is corrupt" if kind == "ImageError" else f"{kind} happened"
    assert (ran.code, ran.out, ran.err) == (code, "", f"vlv: {message}\n")


@pytest.mark.usefixtures("with_probes")
def test_defects_are_not_dressed_up_as_errors() -> None:
    with pytest.raises(AttributeError):
        app.main(["fail", "NoSuchError"])


def test_what_the_system_refuses_is_one_line(vlv: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = vlv("world", "render", "--count", 1, "--out", tmp_path / "file" / "scenes")
    assert ran.code == 1
    assert ran.err.startswith(f"vlv: {tmp_path / 'file'}")
    assert len(ran.err.splitlines()) == 1


def test_listing_imports_no_command() -> None:
    group = app.build()
    assert isinstance(group, LazyGroup)
    assert all(
        isinstance(group.commands[name], LazyCommand) for name in app.COMMANDS if " " not in name
    )
