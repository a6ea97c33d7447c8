"""What OpenAI's clients may ask of a caption, and the answers that hold several of them."""

import json
from typing import Any

import pytest
from openai import OpenAI
from pydantic import BaseModel
from tests.serving.conftest import Server
from tests.serving.test_chat import FIRST, SECOND, ask, caption, part, user

from vlv.inference.postprocess import Cleaning


class Described(BaseModel):
    """What a client reads a caption into."""

    caption: str


class Listed(BaseModel):
    """What a client reads the captions of several images into."""

    captions: list[str]


def streamed(server: Server, **fields: object) -> tuple[str, str]:
    """The caption of the first scene in a stream, and why it ended."""
    lines = ask(server, stream=True, **fields).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    pieces = [one["choices"][0]["delta"].get("content") or "" for one in chunks]
    return "".join(pieces), chunks[-1]["choices"][0]["finish_reason"]


def text_of(server: Server, **fields: object) -> str:
    """The caption of the first scene, streamed; not streamed it is the same, but for the end of one
    that reached the limit.
    """
    whole = caption(ask(server, **fields))
    text, ended = streamed(server, **fields)
    assert (Cleaning().apply(text, ended=False) if ended == "length" else text) == whole
    return whole


def test_a_caption_that_reaches_the_limit_ends_with_a_sentence(server: Server) -> None:
    """As `vlv caption` writes it; a model that learned no end always reaches the limit."""
    fields: dict[str, Any] = {"temperature": 1.0, "max_tokens": 40}
    shorter = 0
    for seed in range(6):
        text, ended = streamed(server, **fields, seed=seed)
        whole = text_of(server, **fields, seed=seed)
        assert text.startswith(whole)
        if whole != text:
            shorter += 1
            assert ended == "length" and whole.endswith(".")
    assert shorter
    words = caption(ask(server)).split()
    repeated = ask(server, max_tokens=12, min_tokens=12, num_beams=2)
    assert repeated.json()["choices"][0]["finish_reason"] == "length"
    assert caption(repeated).split()[:2] == words[:2]


def test_stop_texts_end_a_caption_before_them(server: Server) -> None:
    whole = text_of(server)
    words = whole.split()
    assert text_of(server, stop=f" {words[3]}") == " ".join(words[:3])
    assert text_of(server, stop=["never said", whole[10:30], words[-1]]) == whole[:10].rstrip()
    for beams in (1, 2):
        answer = ask(server, stop=[words[2]], num_beams=beams)
        assert caption(answer) == whole[: whole.index(words[2])].rstrip()
        assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert ask(server, stop="never said").json()["usage"] == ask(server).json()["usage"]
    assert ask(server, stop=words[2]).json()["usage"]["completion_tokens"] <= 5


def test_penalties_change_what_is_repeated(server: Server) -> None:
    plain = text_of(server)

    def repeats(text: str) -> int:
        return len(text.split()) - len(set(text.split()))

    assert repeats(plain) > 0
    for fields in (
        {"frequency_penalty": 2},
        {"presence_penalty": 2.0},
        {"repetition_penalty": 10},
        {"rep_pen": 10},
        {"repeat_penalty": 10},
    ):
        answer = ask(server, **fields, max_tokens=25)
        assert "x-vlv-ignored" not in answer.headers
        assert repeats(caption(answer)) < repeats(plain), fields
    for name in ("frequency_penalty", "presence_penalty"):  # OpenAI's limits
        for value, must in ((2.1, "2 or less"), (-2.1, "-2 or more")):
            answer = ask(server, **{name: value})
            assert answer.status_code == 400
            assert answer.json()["error"]["message"] == f"`{name}` must be {must}."
    answer = ask(server, frequency_penalty=2, num_beams=2)
    assert answer.headers["x-vlv-ignored"] == "frequency_penalty"
    assert caption(answer) == caption(ask(server, num_beams=2))


def test_candidates_restrict_what_is_sampled(server: Server) -> None:
    plain, hot = text_of(server), {"temperature": 2.0, "seed": 1, "max_tokens": 30}
    assert text_of(server, **hot) != plain
    start = plain[:40]
    for fields in ({"top_k": 1}, {"min_p": 1}, {"top_p": 0}, {"do_sample": False}):
        assert text_of(server, **hot, **fields).startswith(start), fields
    assert text_of(server, **hot, top_k=10**9) == text_of(server, **hot)
    assert text_of(server, seed=1, do_sample=True) == text_of(server, seed=1, temperature=1.0)


def test_the_least_number_of_tokens(server: Server) -> None:
    count = ask(server).json()["usage"]["completion_tokens"]
    for name in ("min_tokens", "min_new_tokens"):
        usage = ask(server, **{name: count + 3}).json()["usage"]
        assert usage["completion_tokens"] >= count + 3
    assert ask(server, min_tokens=9, max_new_tokens=4).json()["usage"]["completion_tokens"] == 4


def test_several_choices_and_several_images(server: Server) -> None:
    both = [user(part(FIRST), part(SECOND))]
    answer = ask(server, *both, n=3, temperature=1.5, seed=4, max_tokens=20).json()
    assert [one["index"] for one in answer["choices"]] == [0, 1, 2]
    texts = [one["message"]["content"] for one in answer["choices"]]
    assert len(set(texts)) == 3 and all(text.count("\n\n") == 1 for text in texts)
    one = ask(server, user(part(FIRST)), temperature=1.5, seed=4, max_tokens=20).json()
    assert texts[0].split("\n\n")[0] == one["choices"][0]["message"]["content"]
    assert answer["usage"]["prompt_tokens"] == 2 * one["usage"]["prompt_tokens"]
    sent: dict[int, str] = {0: "", 1: "", 2: ""}
    order: list[int] = []
    api = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0).chat.completions
    asked: Any = {"model": "any", "n": 3, "temperature": 1.5, "seed": 4, "max_tokens": 20}
    for chunk in api.create(messages=both, stream=True, **asked):
        for choice in chunk.choices:
            sent[choice.index] += choice.delta.content or ""
            order.append(choice.index)
    # Side by side, not one after another.
    assert order != sorted(order) and order.index(2) < len(order) - order[::-1].index(0) - 1
    whole = [
        [Cleaning().apply(one, ended=False) for one in text.split("\n\n")] for text in sent.values()
    ]
    assert ["\n\n".join(captions) for captions in whole] == texts


def test_a_schema_of_one_text_is_filled(server: Server) -> None:
    api = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0).chat.completions
    first, second = (caption(ask(server, user(part(url)))) for url in (FIRST, SECOND))
    parsed = api.parse(model="any", messages=[user(part())], response_format=Described)
    assert parsed.choices[0].message.parsed == Described(caption=first)
    both: Any = [user(part(FIRST), part(SECOND))]
    listed = api.parse(model="any", messages=both, response_format=Listed)
    assert listed.choices[0].message.parsed == Listed(captions=[first, second])
    joined = api.parse(model="any", messages=both, response_format=Described)
    assert joined.choices[0].message.parsed == Described(caption=f"{first}\n\n{second}")
    with api.stream(model="any", messages=both, response_format=Listed) as stream:
        final = stream.get_final_completion().choices[0].message.parsed
    assert final == Listed(captions=[first, second])


TEXT = {"type": "string"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": TEXT, "b": TEXT}, "required": ["a", "b"]},
        {"type": "object", "properties": {"a": TEXT, "b": TEXT}},
        {"type": "object", "properties": {"a": {**TEXT, "maxLength": 5}}},
        {"type": "object", "properties": {"a": {**TEXT, "enum": ["yes", "no"]}}},
        {"type": "object", "properties": {"a": {"type": "integer"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}},
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}}}},
        {"type": "object", "properties": {"a": {"type": "array", "items": TEXT, "minItems": 3}}},
        {"type": "object", "properties": {"a": TEXT}, "required": ["b"]},
        {"type": "object", "properties": {"a": TEXT}, "required": [["a"]]},
        {"type": "object", "properties": {"a": 5}},
        {"type": "array", "items": TEXT},
        TEXT,
        {},
    ],
    ids=str,
)
def test_other_schemas_are_refused(server: Server, schema: dict) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = ask(server, response_format=wanted)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "unsupported_schema")
    assert error["param"] == "response_format"


# As forks of TagGUI send it for their model "Remote": the settings of transformers' `generate`
# beside OpenAI's fields, the prompt and the image in two messages.
TAGGUI_GENERATION = {
    "min_new_tokens": 1,
    "max_new_tokens": 100,
    "num_beams": 1,
    "length_penalty": 1.0,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 3,
    "max_completion_tokens": 100,
    "rep_pen": 1.0,
}
EXPERT = "You are image captioning expert, creative, unbiased and uncensored."


def test_what_taggui_sends(server: Server) -> None:
    system = {"role": "system", "content": EXPERT}
    prompt = "Describe the image in one sentence."
    two = [system, {"role": "user", "content": prompt}, user(part())]
    one = [system, user(part(), {"type": "text", "text": prompt})]
    plain = caption(ask(server))
    for body in (
        {"messages": two, "model": "null", **TAGGUI_GENERATION},
        {"messages": one, "model": "gpt-4-vision", "max_tokens": 1024},
        {"messages": one, "model": "remote", "max_tokens": 8192, "temperature": 0.0, "top_p": 1.0},
    ):
        # A fork of it misspells the scheme of its key, which a server without keys ignores.
        headers = {"Authorization": "Bearar sk-1"}
        answer = server.client.post("/v1/chat/completions", json=body, headers=headers)
        assert caption(answer) == plain
    warm = {
        "messages": one,
        "model": "remote",
        "max_tokens": 4096,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    assert caption(server.client.post("/v1/chat/completions", json=warm))
