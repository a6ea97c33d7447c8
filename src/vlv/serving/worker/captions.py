"""Captions that an engine writes token by token, and what is reported of them.

Captions start and end at any time. A streamed one is reported in pieces of text, each with the
tokens that complete it, so that it can continue after a worker that died.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vlv.errors import ConfigError
from vlv.inference.engines.engine import CaptionEngine, NewTokens, RequestFailed
from vlv.inference.engines.prompts import Prompts
from vlv.inference.engines.sampling import Sampling
from vlv.inference.postprocess import Cleaning
from vlv.models.caption_tokens import text_of
from vlv.models.outputs import Caption
from vlv.serving.telemetry import log_error
from vlv.serving.worker.jobs import CaptionJob, CaptionResult, Done, Event, Failed, Tokens
from vlv.serving.worker.stop_texts import StopTexts

# For clients: what an engine says may name machines of the operator. The log has that.
_FAILED = "The language model's server failed on this request."
_REFUSED = (
    "The language model's server does not take the settings of this request; the log says why."
)


class CaptionsInProgress:
    """The captions that `engine` writes, by the ids of their jobs."""

    def __init__(
        self, engine: CaptionEngine, prompts: Prompts, report: Callable[[Event], None]
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._report = report
        self._captions: dict[int, _CaptionInProgress] = {}

    def __len__(self) -> int:
        return len(self._captions)

    def start(self, id: int, job: CaptionJob, c: Tensor, in_distribution: bool | None) -> None:
        """Start a caption of c (Q,d_T), after the tokens that were reported before.

        A limit of tokens that the engine has no room for means as many as there is room for.
        """
        text = TextStreamer(self._prompts.tokenizer, job.stop)
        text.next(job.written, finished=False)
        e = self._prompts.embed(c[None])[0]
        most = self._most_tokens(job.max_new_tokens, len(e))
        sampling = Sampling(
            max_new_tokens=most,
            min_new_tokens=min(most, job.min_new_tokens),
            temperature=job.temperature,
            top_p=job.top_p,
            seed=job.seed,
            rules=job.rules,
        )
        try:
            self._engine.add(id, e, sampling, job.written)
        except ConfigError as error:
            self._report(Failed(id, 400, "bad_request", str(error)))
            return
        except ValueError as error:
            self._refuse(id, str(error))
            return
        caption = _CaptionInProgress(list(job.written), text, job.stream, in_distribution)
        self._captions[id] = caption
        if text.stopped:  # with the last token that a worker that died had reported
            self._finish(id, ended=True)

    def step(self) -> None:
        """Write the next tokens, and report streamed ones and finished captions."""
        if self._captions:
            for event in self._engine.step():
                if not isinstance(event, RequestFailed):
                    self._record(event)
                    continue
                del self._captions[event.key]
                if event.refused:
                    self._refuse(event.key, event.message)
                else:
                    log_error("engine failed", error=event.message)
                    self._report(Failed(event.key, 500, "engine_failed", _FAILED))

    def cancel(self, id: int) -> None:
        """Forget a caption, if it is in progress."""
        if self._captions.pop(id, None) is not None:
            self._engine.cancel(id)

    def _most_tokens(self, asked: int, prompt: int) -> int:
        positions = self._engine.positions
        if positions is None or positions <= prompt:  # the engine says so
            return asked
        return min(asked, positions - prompt)

    def _refuse(self, id: int, reason: str) -> None:
        log_error("engine refused", error=reason)
        self._report(Failed(id, 400, "bad_request", _REFUSED))

    def _record(self, event: NewTokens) -> None:
        id, finished = event.key, event.finish is not None
        one = self._captions.get(id)
        if one is None:  # an earlier event of this step reached a stop text
            return
        one.ids += event.ids
        if event.ids or finished:
            piece = one.text.next(one.ids, finished)
            if one.stream:
                self._report(Tokens(id, event.ids, piece))
        if finished or one.text.stopped:
            self._finish(id, ended=event.finish == "end" or one.text.stopped)

    def _finish(self, id: int, *, ended: bool) -> None:
        """Report a caption, before the first stop text; one that reached it leaves the engine."""
        one = self._captions.pop(id)
        caption = one.text.stop.cut(self._prompts.caption(one.ids, ended))
        caption = caption if one.stream else cleaned(caption)
        self._report(Done(id, CaptionResult(caption, one.in_distribution)))
        self._engine.cancel(id)


def cleaned(caption: Caption) -> Caption:
    """The caption as `vlv caption` writes it: one that reached the limit of tokens loses its
    unfinished sentence and repeated ones. A stream has sent them by then.
    """
    if caption.ended:
        return caption
    return replace(caption, text=Cleaning().apply(caption.text, ended=False))


@dataclass
class _CaptionInProgress:
    """The tokens of a caption, of which the streamed text gives what is final."""

    ids: list[int]
    text: "TextStreamer"
    stream: bool
    in_distribution: bool | None


class TextStreamer:
    """The text of a growing list of tokens, in pieces that together are the whole text.

    `stopped` says whether the text reached one of the stop texts, before which it ends.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: tuple[str, ...] = ()) -> None:
        self.stop = StopTexts(stop)
        self.stopped = False
        self._tokenizer = tokenizer
        self._streamed = 0

    def next(self, ids: Sequence[int], finished: bool) -> str:
        """The text that is final and not streamed yet: no incomplete characters, no trailing
        spaces, and nothing that may become a stop text.
        """
        text = text_of(self._tokenizer, ids)
        end = self.stop.end_of(text)
        self.stopped = end is not None
        if end is not None:
            text = text[:end].rstrip()
        elif not finished:
            text = text.rstrip("\ufffd")
            text = text[: self.stop.end_of_certain(text)].rstrip()
        piece = text[self._streamed :]
        self._streamed = max(self._streamed, len(text))
        return piece
