"""What a teacher is asked for: one request is one image, and its answer is a caption."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from vlv.endpoints.chat import data_url
from vlv.endpoints.extra_body import ExtraBody, with_extra

INSTRUCTION = """\
Write one detailed caption of this image, in English, as a single paragraph of 150 to 250 words.
Cover what is visible: the setting; the objects with their colours, materials and textures, and \
where they are relative to one another and in the frame; people, with what they wear, do and \
express; the light; actions; the mood. Mention text only where it can be read.
Describe nothing that is not visible, and guess neither names nor what happened before. Answer \
with the caption alone: no introduction, no headings, no lists."""
"""What the paper's teacher was asked for (section 3.2, appendix), in words of our own."""


@dataclass(frozen=True)
class Request:
    """What is asked of an image; all of it but the limit of tokens is part of the fingerprint."""

    model: str
    instruction: str = INSTRUCTION
    max_tokens: int = 512
    max_side: int = 1024
    """Larger images are reduced to it, in pixels: teachers charge by size."""
    temperature: float | None = None
    seed: int | None = None
    """Of the server's sampling, where it keeps to one."""
    extra: ExtraBody = field(default_factory=dict)
    """Fields of this server alone."""

    @property
    def fingerprint(self) -> str:
        """The same for requests whose captions may stand in one dataset."""
        asked: list[Any] = [self.model, self.instruction, self.max_side, self.temperature]
        asked += [] if self.seed is None else [self.seed]
        asked += [self.extra] if self.extra else []
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]

    @property
    def about(self) -> dict[str, str]:
        """The parts of the fingerprint that a message may name."""
        return {
            "model": self.model,
            "instruction": self.instruction,
            "max_side": str(self.max_side),
            "temperature": json.dumps(self.temperature),
            "seed": json.dumps(self.seed),
            "extra_body": json.dumps(self.extra or None),
        }

    def body(self, jpeg: bytes, attempt: int) -> dict[str, Any]:
        """The request's JSON. A later attempt has more tokens, and another seed."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.max_tokens * min(attempt, 2),
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": self.instruction},
                        {"type": "image_url", "image_url": {"url": data_url(jpeg)}},
                    ],
                }
            ],
        }
        temperature = self.temperature
        if self.seed is not None:
            body["seed"] = self.seed
        if attempt > 1:
            # A greedy answer would only come back the same.
            temperature = max(temperature or 0.0, 0.7)
            body["seed"] = (self.seed or 0) + attempt
        return with_extra({**body, "temperature": temperature}, self.extra)
