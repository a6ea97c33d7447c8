"""Questions to a model, and which answers can be used."""

import json

import pytest

from vlv.endpoints.chat import Chat, Form
from vlv.endpoints.endpoint import Answer

FORM = Form("rating", {"reasons": None, "score": (0, 1, 2), "better": ("A", "tie")})
GOOD = {"reasons": "a {brace}", "score": 2, "better": "tie"}


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (json.dumps(GOOD), GOOD),
        (f"Here:\n```json\n{json.dumps(GOOD)}\n```\nDone.", GOOD),
        (json.dumps({**GOOD, "score": "2"}), GOOD),
        (json.dumps({**GOOD, "score": 3}), None),
        (json.dumps({**GOOD, "score": True}), None),
        (json.dumps({**GOOD, "score": 1.0}), None),
        (json.dumps({**GOOD, "score": None}), None),
        (json.dumps({**GOOD, "reasons": 5}), None),
        (json.dumps({**GOOD, "better": "B"}), None),
        (json.dumps({**GOOD, "more": 1}), None),
        ('{"score": 2}', None),
        (f"[{json.dumps(GOOD)}, {json.dumps(GOOD)}]", None),
        ("[1]", None),
        ("no JSON", None),
        ("} {", None),
        ("{" * 3000 + "}" * 3000, None),
    ],
)
def test_json_of_the_form_is_read_and_no_other(text: str, fields: dict[str, object]) -> None:
    assert FORM.read(text) == fields


@pytest.mark.parametrize(
    ("text", "finish", "problem"),
    [
        (json.dumps(GOOD), "stop", None),
        (json.dumps(GOOD), "length", "truncated"),
        (json.dumps(GOOD), "content_filter", "refusal"),
        ("I'm sorry, but I can't help with that.", "stop", "refusal"),
        ("{", "stop", "bad-json"),
        (" ", "stop", "empty"),
    ],
)
def test_problems(text: str, finish: str, problem: str | None) -> None:
    chat = Chat("x", "model", "Rate.", "a caption", form=FORM)
    assert chat.read(Answer(text, finish))[0] == problem


def test_equal_questions_have_one_key_and_others_another() -> None:
    def key(**changed: object) -> str:
        fields = {"name": "x", "model": "m", "instruction": "i", "text": "t", **changed}
        return Chat(**fields).key  # type: ignore[arg-type]

    changes: list[dict[str, object]] = [
        {"model": "n"},
        {"instruction": "j"},
        {"text": "u"},
        {"form": FORM},
        {"temperature": 1.0},
        {"scope": "s"},
        {"extra": {"top_k": 1}},
        {"pictures": [("hash", lambda: b"")]},
        {"pictures": [("hash", lambda: b""), ("other", lambda: b"")]},
    ]
    assert len({key(), *(key(**one) for one in changes)}) == 1 + len(changes)
    assert key(name="y", max_tokens=9) == key()


def test_several_pictures_are_sent_in_order() -> None:
    pictures = [("a", lambda: b"first"), ("b", lambda: b"second")]
    body = Chat("x", "m", "Compare.", "which?", pictures, FORM).prepare()(2)
    *images, text = body["messages"][1]["content"]
    assert [one["image_url"]["url"][-8:] for one in images] == ["Zmlyc3Q=", "c2Vjb25k"]
    assert text == {"type": "text", "text": "which?"}
    assert body["seed"] == 2 and body["max_tokens"] == 1024 and body["temperature"] == 0.7
