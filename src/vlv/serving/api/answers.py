"""Answers of one or more captions: started together, and given piece by piece in their order."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from fastapi import Response

from vlv.serving.api.context import RequestContext
from vlv.serving.api.layouts import Layout
from vlv.serving.api.openapi import OOD_HEADER
from vlv.serving.api.schemas import FinishReason
from vlv.serving.engine import JobHandle
from vlv.serving.worker.jobs import CaptionJob, CaptionResult, Tokens
from vlv.text import printable

IGNORED_HEADER = "X-VLV-Ignored"
_MOST_NAMES, _LONGEST_NAME = 50, 40
IGNORED_HEADER_DESCRIPTION = {
    IGNORED_HEADER: {
        "description": "Fields of the request that had no effect.",
        "schema": {"type": "string"},
    }
}


@dataclass(frozen=True)
class Answer:
    """A whole answer: its text, and the captions in it, one for each image."""

    text: str
    captions: tuple[CaptionResult, ...]

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended, in the words of OpenAI: "length" if any caption was cut."""
        return "stop" if all(one.caption.ended for one in self.captions) else "length"

    @property
    def tokens(self) -> int:
        """Number of tokens that were written."""
        return sum(one.caption.tokens for one in self.captions)

    @property
    def out_of_distribution(self) -> bool | None:
        """Whether any image is unlike the training images; None if that is not known."""
        known = [
            not one.in_distribution for one in self.captions if one.in_distribution is not None
        ]
        return any(known) if known else None


def start_answers(
    context: RequestContext, jobs: Sequence[Sequence[CaptionJob]]
) -> list[list[JobHandle]]:
    """Submit the captions of all answers, so that they are written in one batch."""
    return [[context.start_caption(job) for job in of_answer] for of_answer in jobs]


async def stream_answer(
    context: RequestContext, handles: Sequence[JobHandle], layout: Layout
) -> AsyncIterator[str | Answer]:
    """Pieces of an answer's text, then the whole answer."""
    captions = []
    # Goes out with the text after it: the first piece says that nothing failed until then.
    between = layout.before
    for handle in handles:
        async for piece in context.caption_events(handle):
            if isinstance(piece, Tokens):
                yield between + layout.piece(piece.text)
                between = ""
            else:
                captions.append(piece)
        between += layout.between if len(captions) < len(handles) else layout.after
    if between:
        yield between
    yield Answer(layout.text([one.caption.text for one in captions]), tuple(captions))


async def whole_answer(
    context: RequestContext, handles: Sequence[JobHandle], layout: Layout
) -> Answer:
    """An answer whose captions are not streamed."""
    async for piece in stream_answer(context, handles, layout):
        if isinstance(piece, Answer):
            return piece
    raise AssertionError("a stream ends with its answer")


def set_headers(response: Response, answers: Sequence[Answer], ignored: Sequence[str]) -> None:
    """Say in headers what had no effect, and whether an image is unlike the training images."""
    response.headers.update(ignored_header(ignored))
    known = [one.out_of_distribution for one in answers if one.out_of_distribution is not None]
    if known:
        response.headers[OOD_HEADER] = str(any(known)).lower()


def ignored_header(ignored: Sequence[str]) -> dict[str, str]:
    """The header that names fields without effect, if there are any; a client chooses the names of
    some, and a header is short and has letters of ASCII only.
    """
    if not ignored:
        return {}
    names = [printable(name[:_LONGEST_NAME]) for name in ignored[:_MOST_NAMES]]
    more = [f"and {len(ignored) - _MOST_NAMES} more"] if len(ignored) > _MOST_NAMES else []
    return {IGNORED_HEADER: ", ".join([*names, *more]).encode("ascii", "backslashreplace").decode()}
