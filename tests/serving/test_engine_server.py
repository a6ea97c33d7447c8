"""The service before a vLLM server: what clients learn of it, and what works while it fails."""

import json
from collections.abc import Callable
from typing import Any

from tests.inference.engines.answering import answering, event
from tests.serving.conftest import Server, data_url, scene
from tests.serving.test_chat import ask
from tests.shared import until

IMAGE = data_url(scene(3))
POSITIONS, EMBEDDINGS = 512, 77  # of the server, and of a prompt
DETAIL = json.dumps({"error": {"message": "CUDA error on gpu7.internal"}}).encode()


def test_a_server_of_the_language_model_that_fails(serve: Callable[..., Server]) -> None:
    asked: list[dict[str, Any]] = []
    answers: list[tuple[int, bytes]] = [(200, event([7], "stop"))]

    def answer(count: int, body: dict[str, Any]) -> tuple[int, bytes]:
        asked.append(body)
        return answers[-1]

    with answering(answer) as url:
        secret = url.replace("http://", "http://name:secret@")
        server = serve("--engine", "vllm", "--engine-url", secret)
        for limit in (-1, 0, 1024, 4096):
            assert ask(server, max_tokens=limit, min_tokens=1000).status_code == 200
        room = POSITIONS - EMBEDDINGS
        assert [(one["max_tokens"], one["min_tokens"]) for one in asked] == [(room, room)] * 4

        answers.append((400, DETAIL))
        refused = ask(server)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_request")
        assert server.client.get("/ready").status_code == 200

        answers.append((401, DETAIL))  # as of a server that has another key now
        for _ in range(51):
            failed = ask(server)
            assert (failed.status_code, failed.json()["error"]["code"]) == (500, "engine_failed")
        message = "The language model's server failed on this request."
        assert failed.json()["error"]["message"] == message
        until(lambda: server.client.get("/ready").status_code == 503)
        assert "language model" in server.client.get("/ready").json()["reason"]
        assert server.post("/v1/vlv/encode", image=IMAGE).status_code == 200

        answers.append((200, event([7], "stop")))
        until(lambda: server.client.get("/ready").status_code == 200)
        assert ask(server).status_code == 200

    log = server.log.read_text()
    assert "answers 400 (CUDA error on gpu7.internal)" in log
    assert "answers 401 (CUDA error on gpu7.internal)" in log
    assert "secret" not in log
    for body in (refused.text, failed.text):
        assert "gpu7" not in body and "127.0.0.1" not in body
