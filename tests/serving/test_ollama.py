"""Ollama's API, with its unchanged client."""

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import ollama
import pytest
from tests.serving.conftest import Server
from tests.serving.test_chat import FIRST, SECOND, ask, caption, part, user
from tests.serving.test_generation import Described, Listed

DATA, OTHER = (base64.b64decode(url.partition(",")[2]) for url in (FIRST, SECOND))
PROMPT = "Describe this image."


@pytest.fixture
def api(server: Server) -> ollama.Client:
    return ollama.Client(server.url)


def message(*images: bytes) -> dict[str, Any]:
    return {"role": "user", "content": PROMPT, "images": list(images)}


def test_both_ways_to_ask_give_the_caption(server: Server, api: ollama.Client) -> None:
    plain = caption(ask(server))
    asked = api.chat("llava", [message(DATA)])
    assert (asked.message.content, asked.model) == (plain, "vlv-mini:latest")
    assert (asked.done, asked.done_reason) == (True, "stop")
    assert asked.eval_count == ask(server).json()["usage"]["completion_tokens"]
    assert asked.total_duration > 0
    made = api.generate("llava", PROMPT, images=[DATA])
    assert made.response == plain
    cut = api.generate("llava", PROMPT, images=[DATA], options={"num_predict": 3})
    assert (cut.eval_count, cut.done_reason) == (3, "length")
    options = {"num_predict": -2, "stop": [plain[9:14]]}
    assert api.generate("llava", images=[DATA], options=options).response == plain[:9].rstrip()


def test_streams_are_lines_of_json(server: Server, api: ollama.Client) -> None:
    plain = caption(ask(server))
    chunks = list(api.chat("llava", [message(DATA)], stream=True))
    assert len(chunks) > 3 and "".join(one.message.content for one in chunks) == plain
    assert [one.done for one in chunks] == [False] * (len(chunks) - 1) + [True]
    pieces = list(api.generate("llava", PROMPT, images=[DATA], stream=True))
    assert "".join(one.response for one in pieces) == plain
    # Ollama streams by default.
    body = {"model": "llava", "prompt": PROMPT, "images": [base64.b64encode(DATA).decode()]}
    answer = server.client.post("/api/generate", json=body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[-1]["out_of_distribution"] is False and "done_reason" not in lines[0]


def test_several_images_and_schemas(server: Server, api: ollama.Client) -> None:
    texts = caption(ask(server, user(part(FIRST), part(SECOND)))).split("\n\n")
    both = [message(OTHER), {"role": "assistant", "content": "Yes."}, message(DATA, OTHER)]
    assert api.chat("llava", both).message.content.split("\n\n") == texts
    said = api.chat("llava", both, format=Listed.model_json_schema()).message.content
    assert Listed.model_validate_json(said or "") == Listed(captions=texts)
    schema = Described.model_json_schema()
    one = api.generate("llava", images=[DATA], format=schema, stream=False).response
    assert Described.model_validate_json(one) == Described(caption=texts[0])


def test_options_are_done_or_named(server: Server, api: ollama.Client) -> None:
    hot = {"temperature": 2.0, "seed": 3, "num_predict": 20}
    warm = api.generate("llava", images=[DATA], options=hot).response
    asked = ask(server, temperature=2.0, seed=3, max_tokens=20)
    assert warm == caption(asked) != caption(ask(server, max_tokens=20))
    penal = ask(server, repetition_penalty=5, max_tokens=20)
    options = {"repeat_penalty": 5.0, "num_predict": 20}
    assert api.generate("llava", images=[DATA], options=options).response == caption(penal)
    options = {"mirostat": 2, "num_ctx": 4096, "tfs_z": 0.5, "num_predict": 2}
    body = {"images": [FIRST], "options": options, "keep_alive": "5m", "think": False}
    answer = server.client.post("/api/generate", json=body)
    assert answer.headers["x-vlv-ignored"] == "mirostat, tfs_z"


def test_names_of_options_make_a_header_whatever_they_are(server: Server) -> None:
    options = {"größe\r\nX: 1": 1, "大きさ": 2, "num_predict": 2} | {
        f"o{at:03}": 1 for at in range(100)
    }
    for stream in (False, True):
        body = {"images": [FIRST], "options": options, "stream": stream}
        answer = server.client.post("/api/generate", json=body)
        assert answer.status_code == 200
        named = answer.headers["x-vlv-ignored"].split(", ")
        assert named[:2] == [r"gr\xf6\xdfe\r\nX: 1", "o000"]
        assert named[-1] == "and 52 more"


def test_what_clients_ask_before(server: Server, api: ollama.Client) -> None:
    for listed in (api.list(), api.ps()):
        assert [one.model for one in listed.models] == ["vlv-mini:latest"]
    shown = api.show("llava")
    assert shown.capabilities == ["completion", "vision"]
    assert shown.modelinfo["general.architecture"] == "vlv"
    assert server.client.get("/api/version").json()["version"] >= "0.13"
    assert api.generate("llava").done_reason == "load"
    assert api.chat("llava", []).done_reason == "load"
    assert httpx.head(server.url).status_code == 200


def test_errors_are_sentences_in_ollamas_form(server: Server, api: ollama.Client) -> None:
    cases: list[tuple[Callable[[], Any], int, str]] = [
        (lambda: api.generate("a", PROMPT), 400, "The request must contain an image, in `images`."),
        (
            lambda: api.chat("a", [{"role": "user", "content": "Hello"}]),
            400,
            "The messages must contain an image, in `images`.",
        ),
        (lambda: api.generate("a", images=[b"no image"]), 422, "image"),
        (lambda: list(api.generate("a", images=[b"no image"], stream=True)), 422, "image"),
        (lambda: api.generate("a", images=[DATA], format="json"), 400, "plain text or fills a"),
        (lambda: api.generate("a", images=[DATA] * 17), 400, "may ask for 16 captions, not 17"),
        (lambda: api.pull("llava"), 404, "There is nothing at this address"),
        (lambda: api.embed("llava", "Hello"), 404, "There is nothing at this address"),
    ]
    for call, status, expected in cases:
        with pytest.raises(ollama.ResponseError) as failed:
            call()
        assert failed.value.status_code == status
        assert expected in failed.value.error


def test_only_browsers_must_name_the_type_of_the_body(server: Server) -> None:
    """Some clients of Ollama do not, and pages of any site can send what has another type."""
    plain = {"Content-Type": "text/plain"}
    assert server.client.post("/api/chat", content=b"{}", headers=plain).status_code == 200
    for name, value in (("Origin", "http://site.example"), ("Sec-Fetch-Site", "cross-site")):
        form = server.client.post("/api/chat", content=b"{}", headers={**plain, name: value})
        assert (form.status_code, form.json()["code"]) == (415, "unsupported_media_type")


def test_requests_use_the_same_slots_keys_and_metrics(server: Server, keyed: Server) -> None:
    before = server.metric("vlv_requests_total", route="/api/generate", status="200")
    accepted = server.metric("vlv_accepted_total")
    ollama.Client(server.url).generate("a", images=[DATA], options={"num_predict": 2})
    assert server.metric("vlv_requests_total", route="/api/generate", status="200") == before + 1
    assert server.metric("vlv_accepted_total") == accepted + 1
    with pytest.raises(ollama.ResponseError) as failed:
        ollama.Client(keyed.url).list()
    assert failed.value.status_code == 401 and "needs a valid key" in failed.value.error
    headers = {"Authorization": keyed.client.headers["Authorization"]}
    assert len(ollama.Client(keyed.url, headers=headers).list().models) == 1


@pytest.mark.slow
def test_litellm_speaks_to_all_of_them(server: Server) -> None:
    import litellm

    plain = caption(ask(server))
    messages = [user({"type": "text", "text": PROMPT}, part())]
    opened = {"api_base": f"{server.url}/v1", "api_key": "none"}
    for more in (
        {"model": "openai/gpt-4o", **opened, "presence_penalty": 0, "top_p": 1.0},
        {"model": "hosted_vllm/any", **opened, "top_k": 5},
        {"model": "ollama_chat/llava", "api_base": server.url},
        {"model": "ollama/llava", "api_base": server.url},
    ):
        answer = litellm.completion(messages=messages, **more)
        assert answer.choices[0].message.content == plain, more
        chunks = litellm.completion(messages=messages, stream=True, **more)
        pieces = [one.choices[0].delta.content or "" for one in chunks]
        assert "".join(pieces) == plain, more
    content = [{"type": "input_image", "image_url": FIRST, "detail": "auto"}]
    made = litellm.responses(
        model="openai/gpt-4o", input=[{"role": "user", "content": content}], **opened
    )
    assert made.output[0].content[0].text == plain
