"""`vlv data caption`: addresses, keys and waits of a server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.data.teacher.server import Reply, Teacher, good_caption, running
from tests.data.teacher.test_captioning import asked, captions, make_pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two images."""
    return make_pictures(tmp_path / "pictures", 2)


@pytest.fixture
def teacher() -> Iterator[Teacher]:
    with running(lambda image, _: Reply(good_caption(image))) as books:
        yield books


def test_blanks_at_the_ends_of_a_key_are_not_sent(
    vlv: Callable, pictures: Path, tmp_path: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys in files end with a line."""
    monkeypatch.setenv("OPENAI_API_KEY", " sk-secret\n")
    ran = asked(vlv, pictures, tmp_path / "out", teacher)
    assert ran.code == 0, ran.err
    assert teacher.keys == {"Bearer sk-secret"}


@pytest.mark.parametrize("key", ["sk-s\u00e9cret", "sk-\u201csecret\u201d", "sk-sec\nret"])
def test_a_key_that_no_header_can_hold_is_not_shown(
    vlv: Callable,
    pictures: Path,
    tmp_path: Path,
    teacher: Teacher,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    ran = asked(vlv, pictures, tmp_path / "out", teacher)
    assert ran.code == 2 and "the key in OPENAI_API_KEY holds a sign" in ran.err
    assert "sk-" not in ran.err and not teacher.keys


def test_an_address_may_have_a_query_and_its_secrets_stay_in_the_command(
    vlv: Callable, pictures: Path, tmp_path: Path, teacher: Teacher
) -> None:
    plain = teacher.url
    teacher.url = plain.replace("//", "//user:hunter2@") + "/?api-version=3&key=hunter3"
    ran = asked(vlv, pictures, tmp_path / "out", teacher)
    assert ran.code == 0, ran.err
    assert teacher.paths == {"/v1/chat/completions?api-version=3&key=hunter3"}
    teacher.script = lambda *_: Reply("unknown model", "", 404)
    failed = asked(vlv, pictures, tmp_path / "other", teacher)
    assert failed.code == 2 and f"at {plain}/chat/completions; check --base-url" in failed.err
    assert "hunter" not in ran.err + failed.err
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"hunter" not in path.read_bytes(), path


def test_a_request_that_got_no_answer_may_be_changed(
    vlv: Callable, pictures: Path, tmp_path: Path, teacher: Teacher
) -> None:
    out = tmp_path / "out"
    for model in ("typo", "other typo"):
        assert asked(vlv, pictures, out, teacher, "--dry-run", "--model", model).code == 0
    assert asked(vlv, pictures, out, teacher, "--model", "right").code == 0
    assert len(captions(out)) == 2
    ran = asked(vlv, pictures, out, teacher, "--model", "wrong")
    assert ran.code == 2 and "were asked for with another model" in ran.err


def test_it_is_said_that_a_server_does_not_answer(
    vlv: Callable,
    pictures: Path,
    tmp_path: Path,
    teacher: Teacher,
    caplog: pytest.LogCaptureFixture,
) -> None:
    teacher.script = lambda image, number: (
        Reply("loading", "", 503) if number == 1 else Reply(good_caption(image))
    )
    assert asked(vlv, pictures, tmp_path / "out", teacher).code == 0
    # Once a minute.
    assert caplog.messages == ["the server answers 503 (loading); trying again"]


def test_a_day_is_not_waited_for(
    vlv: Callable, pictures: Path, tmp_path: Path, teacher: Teacher
) -> None:
    teacher.script = lambda *_: Reply("quota", "", 429, {"Retry-After": "90000"})
    ran = asked(vlv, pictures, tmp_path / "out", teacher)
    assert ran.code == 1
    assert "the server answers 429 (quota), and asks to wait for 25.0 hours" in ran.err
