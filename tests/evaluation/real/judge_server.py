"""A judge over the loopback that also misbehaves: the teacher's server, asked other questions."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.data.teacher.server import Reply, Teacher, running

Judging = Callable[[dict[str, Any], int], Reply]
"""The reply to the n-th request (from 1) with a question."""


class JudgeBooks(Teacher):
    """Keeps its books by question: model, texts and pictures."""

    def reply(self, body: dict[str, Any]) -> tuple[Reply, str]:
        question = json.dumps([body["model"], body["messages"]])
        key = hashlib.sha256(question.encode()).hexdigest()[:12]
        with self.lock:
            self.bodies.append(body)
            self.asked[key] += 1
            script: Any = self.script
            reply = script(body, self.asked[key])
            self.paid[key] += reply.status == 200
        return reply, key


@contextmanager
def judging(script: Judging) -> Iterator[JudgeBooks]:
    anything: Any = script
    with running(anything, JudgeBooks) as books:
        assert isinstance(books, JudgeBooks)
        yield books


def text_of(body: dict[str, Any]) -> str:
    """What was asked, without pictures."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return str(next(part["text"] for part in content if part["type"] == "text"))


def captions_in(body: dict[str, Any]) -> dict[str, str]:
    """letter -> caption."""
    parts = re.split(r"(?:^|\n\n)Caption ([A-Z]):\n", text_of(body))[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def by_length(body: dict[str, Any], *_: object) -> Reply:
    """Rates or compares captions by their words: six and more are comprehensive."""
    words = {letter: len(text.split()) for letter, text in captions_in(body).items()}
    fields = body["response_format"]["json_schema"]["schema"]["properties"]
    if "better" in fields:
        gap = words["A"] - words["B"]
        return Reply(
            json.dumps({"reasons": "", "better": "A" if gap > 0 else "B" if gap else "tie"})
        )
    rated: dict[str, Any] = {}
    for letter, count in words.items():
        rated |= {f"reasons_{letter}": f"{count} words", f"score_{letter}": min(count, 6)}
    return Reply(json.dumps(rated))
