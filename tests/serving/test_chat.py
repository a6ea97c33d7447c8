"""Requests of OpenAI's API as its clients really send them."""

from typing import Any

import httpx
import pytest
from openai import OpenAI
from tests.serving.conftest import Server, data_url, scene

FIRST, SECOND = data_url(scene(3)), data_url(scene(4))
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def part(url: object = FIRST) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def user(*parts: object) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def ask(server: Server, *messages: object, **more: object) -> httpx.Response:
    body = {"model": "vlv-mini", "messages": list(messages) or [user(part())], **more}
    return server.client.post("/v1/chat/completions", json=body)


def caption(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_the_last_pictures_of_a_conversation_are_captioned(server: Server) -> None:
    first, second = (caption(ask(server, user(part(url)))) for url in (FIRST, SECOND))
    assert first != second
    text = {"type": "text", "text": "And this?"}
    said = {"role": "assistant", "content": "A cube."}
    one, two = user(part(FIRST)), user(text, part(SECOND))
    for messages, expected in (
        ([one, said, two], second),
        ([two, said, one], first),
        ([one, said, two, said, {"role": "user", "content": "Sure?"}], second),
        ([user(part(FIRST), text, part(SECOND))], f"{first}\n\n{second}"),
        ([two, {"role": "assistant", "content": [part(FIRST)]}], second),
        ([{"role": "system", "content": None}, one, {"role": "assistant", "content": None}], first),
        ([one, {"role": "assistant", "tool_calls": []}], first),
        ([one, {"role": "tool", "content": "5", "tool_call_id": "a"}], first),
        ([user(text, {"type": "image_url", "image_url": FIRST})], first),
        ([one, {"role": "user", "content": "", "name": None}], first),
        ([one, {"role": "user", "content": []}], first),
        ([user({**part(FIRST), "cache_control": {"type": "ephemeral"}})], first),
        ([user({"type": "text", "text": None}, part(FIRST))], first),
        ([{"role": "system", "content": [part(FIRST)]}], first),
    ):
        assert caption(ask(server, *messages)) == expected, messages[1:]


def test_answers_can_be_sent_back(server: Server) -> None:
    api = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0).chat.completions
    made = api.create(model="vlv-mini", messages=[user(part())])
    for said in (
        made.choices[0].message.model_dump(),
        made.choices[0].message.model_dump(exclude_none=True),
        {**made.choices[0].message.model_dump(), "reasoning_content": "A cube?"},
    ):
        again = api.create(model="vlv-mini", messages=[user(part()), said, user()])
        assert again.choices == made.choices


NULL = """audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens
max_tokens metadata modalities model moderation n num_beams parallel_tool_calls prediction
presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort
response_format safety_identifier seed service_tier stop store stream stream_options temperature
tool_choice tools top_logprobs top_p user verbosity web_search_options a_field_of_next_year"""


@pytest.mark.parametrize(
    "fields",
    [
        *({name: None} for name in NULL.split()),
        {"detail": None},
        {"frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "n": 1},
        {"stop": ""},
        {"stop": [], "tools": [], "functions": [], "metadata": {}, "store": False},
        {"tool_choice": "none", "function_call": "none", "parallel_tool_calls": True},
        {"tool_choice": "auto", "parallel_tool_calls": False, "logprobs": False},
        {"logprobs": 0},
        {"top_logprobs": 0, "service_tier": "auto", "modalities": ["text"]},
        {"service_tier": "default", "response_format": {"type": "text"}},
        {"reasoning_effort": "none", "verbosity": "medium", "user": "me"},
        {"stream": False, "stream_options": {"include_usage": False}},
        {"top_k": -1, "repetition_penalty": 1.0, "min_p": 0.0, "typical_p": 1.0, "best_of": 1},
        {"top_k": 0, "mirostat": 0, "cache_prompt": True, "skip_special_tokens": True},
    ],
    ids=str,
)
def test_fields_that_request_nothing(server: Server, fields: dict) -> None:
    if "detail" in fields:
        messages = [user({"type": "image_url", "image_url": {"url": FIRST, **fields}})]
        answer = ask(server, *messages, max_tokens=4)
    else:
        answer = ask(server, **{"max_tokens": 4, **fields})
    assert answer.status_code == 200, answer.text
    assert "x-vlv-ignored" not in answer.headers


def test_no_limit_and_any_seed_as_clients_write_them(server: Server) -> None:
    whole = caption(ask(server))
    for limit in (-1, 0, 10**9, -1.0):
        assert caption(ask(server, max_tokens=limit)) == whole
    assert caption(ask(server, max_completion_tokens=-1, max_tokens=2)) == whole
    assert ask(server, max_tokens=5.0).json()["usage"]["completion_tokens"] == 5
    assert (
        ask(server, max_tokens=9, max_completion_tokens=5).json()["usage"]["completion_tokens"] == 5
    )
    sampled = {"temperature": 2.0, "max_tokens": 12}
    for seed in (-1, None):
        assert len({caption(ask(server, seed=seed, **sampled)) for _ in range(4)}) > 1
    for seed in (0, 2**63, 2**64 - 1, -(2**63), -7):
        assert len({caption(ask(server, seed=seed, **sampled)) for _ in range(2)}) == 1
    assert caption(ask(server, top_p=0, temperature=2.0)) == whole


@pytest.mark.parametrize("name", ["remote", "default", "gpt-4o", "", "vlv-mini"])
def test_any_model_is_accepted_and_the_answer_names_the_model(server: Server, name: str) -> None:
    assert ask(server, model=name, max_tokens=2).json()["model"] == "vlv-mini"
    streamed = ask(server, model=name, max_tokens=2, stream=True)
    assert '"model":"vlv-mini"' in streamed.text


def test_fields_without_effect_are_named(server: Server) -> None:
    plain = caption(ask(server))
    asked = {"typical_p": 0.9, "logit_bias": {"5": 1}, "no_repeat_ngram_size": 3}
    asked |= {"best_of": 2, "tools": [TOOL], "store": True, "seed": 1, "user": "me"}
    for stream in (False, True):
        answer = ask(server, **asked, stream=stream)
        named = set(answer.headers["x-vlv-ignored"].split(", "))
        assert named == set(asked) - {"seed", "user"}
        if not stream:
            assert caption(answer) == plain


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"n": 17}, "One request may ask for 1 to 16 captions"),
        ({"n": 0}, "One request may ask for 1 to 16 captions"),
        ({"n": 9, "messages": [user(part(), part())]}, "may ask for 16 captions, not 18"),
        # Counted before any is decoded.
        ({"messages": [user(*[part("data:,no image")] * 17)]}, "may ask for 16 captions, not 17"),
        ({"tools": [TOOL], "tool_choice": "required"}, "This model calls no tools"),
        ({"tool_choice": TOOL}, "This model calls no tools"),
        ({"function_call": {"name": "f"}}, "This model calls no functions"),
        ({"response_format": {"type": "json_object"}}, "This model writes plain text"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {}},
                }
            },
            "A caption fills only a schema of an object with one required field",
        ),
        ({"stop": ["a"] * 17}, "`stop` must be a text or a list of at most 16 texts"),
        ({"repetition_penalty": 0}, "`repetition_penalty` must be more than 0."),
        ({"top_k": -2}, "`top_k` must be -1 or more."),
        ({"logprobs": True}, "returns no `logprobs`"),
        ({"logprobs": 1}, "returns no `logprobs`"),
        ({"top_logprobs": 3}, "returns no `top_logprobs`"),
        ({"modalities": ["text", "audio"]}, "answers with text only"),
        ({"temperature": 3}, "`temperature` must be 2 or less."),
        ({"max_tokens": -2}, "`max_tokens` must be -1 or more."),
        ({"max_tokens": "many"}, "`max_tokens` must be a whole number."),
        ({"num_beams": 4, "stream": True}, "A beam search cannot stream"),
        ({"guided_json": {}}, "There is no field `guided_json` here; leave it out."),
        ({"messages": []}, "`messages` must have at least 1 items."),
        (
            {"messages": [{"role": "user", "content": "Hello"}]},
            "The messages must contain an image",
        ),
        ({"messages": [{"content": "Hello"}]}, "`messages[0].role` is missing."),
        ({"messages": [user(part(5))]}, "`messages[0].content[0].image_url.url` must be text."),
        ({"messages": [user({"type": "file"})]}, "must have the `type` `image_url` or `text` or"),
        ({"messages": [user({"text": "a"})]}, "`messages[0].content[0]` has no `type`."),
        ({"messages": [{"role": "user", "content": 5}]}, "`messages[0].content` must be text or"),
        ({"messages": "Hello"}, "`messages` must be a list."),
    ],
    ids=str,
)
def test_what_would_change_the_meaning_is_one_sentence(
    server: Server, fields: dict, expected: str
) -> None:
    answer = ask(server, **{"max_tokens": 4, **fields})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["code"] in ("invalid_request", "unsupported_schema", "too_many_captions")
    assert expected in error["message"]
    assert error["message"].endswith((".", "}"))
    assert "nput" not in error["message"] and "(" not in error["message"]


@pytest.mark.parametrize("bad", ["data:image/png;base64,AAAA", "https://a.test/b.png"])
def test_an_image_that_is_refused_is_named_by_its_place(server: Server, bad: str) -> None:
    text = {"type": "text", "text": "And this?"}
    chat = ask(server, user(part(FIRST)), user(part(FIRST), text, part(bad)))
    assert chat.json()["error"]["param"] == "messages[1].content[2].image_url"
    parts = [{"type": "input_image", "image_url": url} for url in (FIRST, bad)]
    body = {"input": [{"role": "user", "content": parts}]}
    responses = server.client.post("/v1/responses", json=body)
    assert responses.json()["error"]["param"] == "input[0].content[1].image_url"


def test_ollamas_images_are_named_by_their_places(server: Server) -> None:
    images = [FIRST.partition(",")[2], "AAAA"]
    asked = server.client.post("/api/generate", json={"images": images, "stream": False})
    assert asked.json()["param"] == "images[1]"
    messages = [{"role": "user", "content": "", "images": images}]
    asked = server.client.post("/api/chat", json={"messages": messages, "stream": False})
    assert asked.json()["param"] == "messages[0].images[1]"


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ({"type": "text"}, "messages[0].content"),
        (5, "messages[0].content"),
        ([{"type": "image_url"}], "messages[0].content[0].image_url"),
        ([{"type": "image_url", "image_url": {}}], "messages[0].content[0].image_url.url"),
    ],
    ids=str,
)
def test_what_is_wrong_in_a_message_has_the_client_s_names(
    server: Server, content: object, param: str
) -> None:
    answer = ask(server, {"role": "user", "content": content})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
