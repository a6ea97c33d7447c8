"""OpenAI's Responses API, with its unchanged client."""

import json
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from tests.serving.conftest import Server
from tests.serving.test_chat import FIRST, SECOND, ask, caption, part, user
from tests.serving.test_generation import Listed


def image(url: str = FIRST) -> dict[str, Any]:
    return {"type": "input_image", "image_url": url, "detail": "auto"}


TEXT = {"type": "input_text", "text": "What is this?"}
INPUT: Any = [{"role": "user", "content": [TEXT, image()]}]


@pytest.fixture
def api(server: Server) -> Any:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0).responses


def post(server: Server, **body: object) -> httpx.Response:
    return server.client.post("/v1/responses", json={"input": INPUT, **body})


def test_a_response_is_a_caption(server: Server, api: Any) -> None:
    plain = caption(ask(server))
    made = api.create(model="gpt-4o", input=INPUT, instructions="Be brief.", store=False)
    assert (made.output_text, made.model, made.status) == (plain, "vlv-mini", "completed")
    assert made.usage.input_tokens > 0
    assert made.out_of_distribution is False
    cut = api.create(model="gpt-4o", input=INPUT, max_output_tokens=4)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert cut.usage.output_tokens == 4
    again = [*INPUT, *made.output, {"role": "user", "content": "And now?"}]
    assert api.create(model="gpt-4o", input=again).output_text == plain


def test_events_come_as_the_client_expects_them(server: Server, api: Any) -> None:
    plain = caption(ask(server))
    with api.stream(model="gpt-4o", input=INPUT) as stream:
        events = list(stream)
        assert stream.get_final_response().output_text == plain
    deltas = [one.delta for one in events if one.type == "response.output_text.delta"]
    assert len(deltas) > 3 and "".join(deltas) == plain
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    assert events[-1].response.out_of_distribution is False
    assert [one.sequence_number for one in events] == list(range(len(events)))
    lines = post(server, stream=True).text.split("\n\n")
    named = [one.splitlines() for one in lines if one.startswith("event: ")]
    assert all(json.loads(data[6:])["type"] == name[7:] for name, data in named)
    with api.stream(model="gpt-4o", input=INPUT, max_output_tokens=2) as stream:
        assert list(stream)[-1].type == "response.incomplete"


def test_several_images_fill_a_list(server: Server, api: Any) -> None:
    both: Any = [{"role": "user", "content": [image(), TEXT, image(SECOND)]}]
    texts = caption(ask(server, user(part(FIRST), part(SECOND)))).split("\n\n")
    assert api.create(model="a", input=both).output_text.split("\n\n") == texts
    parsed = api.parse(model="a", input=both, text_format=Listed)
    assert parsed.output_parsed == Listed(captions=texts)


def test_fields_without_effect_are_named_and_others_refused(server: Server, api: Any) -> None:
    harmless: dict[str, Any] = {"include": ["reasoning.encrypted_content"], "store": True}
    harmless |= {"truncation": "auto", "service_tier": "auto", "user": "me"}
    answer = post(server, **harmless, max_output_tokens=3, metadata=None)
    assert answer.status_code == 200 and "x-vlv-ignored" not in answer.headers
    ignored = {"reasoning": {"effort": "low"}, "tools": [{"type": "web_search"}]}
    named = post(server, **ignored, max_output_tokens=3).headers["x-vlv-ignored"]
    assert set(named.split(", ")) == set(ignored)
    for fields, expected in (
        ({"previous_response_id": "resp_1"}, "This server stores no responses"),
        ({"background": True}, "This server answers at once"),
        ({"tool_choice": "required"}, "This model calls no tools"),
        ({"text": {"format": {"type": "json_object"}}}, "plain text or fills a schema"),
        ({"input": [{"role": "user", "content": "Hello"}]}, "The input must contain an image"),
        ({"input": "Hello"}, "The input must contain an image"),
        ({"input": 5}, "`input` must be a list."),
        ({"include": ["message.output_text.logprobs"]}, "This server returns no logprobs"),
        ({"nothing": 1}, "There is no field `nothing` here; leave it out."),
    ):
        refused = post(server, **fields)
        error = refused.json()["error"]
        assert (refused.status_code, expected in error["message"]) == (400, True), error
    bad: Any = [{"role": "user", "content": [image("data:image/png;base64,AAAA")]}]
    for create in (api.create, lambda **more: api.create(stream=True, **more)):
        with pytest.raises(openai.UnprocessableEntityError):
            create(model="a", input=bad)
