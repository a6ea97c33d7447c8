"""A vLLM server that runs elsewhere: e is sent with each request for a completion.

The server is one that was started with the language model of the same model folder and
`--enable-prompt-embeds`. It reads e by `torch.load(weights_only=True)`, which runs no code of a
tensor; a server should all the same take such requests only from those it trusts, so that addresses
beyond this machine need a key. What it answers is trusted as little: tokens are checked.

Shapes: Q embeddings of a prompt, d_LM the language model's width, L tokens.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import torch
from torch import Tensor

from vlv.checkpoints.prompt_parts import PromptParts
from vlv.endpoints.address import shown_address
from vlv.errors import ConfigError, EngineError
from vlv.inference.engines.cache_size import check_length
from vlv.inference.engines.engine import CaptionEngine, Finish, NewTokens, RequestFailed
from vlv.inference.engines.sampling import Sampling
from vlv.inference.engines.vllm import selection
from vlv.inference.engines.vllm_wire import (
    KEY_VARIABLE,
    Failed,
    checked_key,
    encoded,
    events,
    is_loopback,
    message_of,
)
from vlv.models.caption_tokens import spellings, start_ids
from vlv.text import printable

# Requests on their way at once; a server queues what it cannot compute.
_REQUESTS = 64
_ATTEMPTS = 4
# Requests in a row that fail before the server is given up.
_PATIENCE = 50
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
# What a request alone is to blame for.
_REFUSED = frozenset({400, 413, 422})
# Seconds: to connect, and between two tokens of a busy server.
_CONNECT, _READ = 10.0, 300.0
# Seconds that a step waits: other work of a service goes on meanwhile.
_WAIT = 0.05
# Seconds between two questions whether a server that failed works again, and for an answer.
_PAUSE, _ANSWER = 2.0, 30.0
_DISCOURAGED = -100.0  # the least bias that OpenAI's interface knows; vLLM adds it to logits


@dataclass
class _Request:
    """One sequence on its way; `ids` are its new tokens, those of another engine among them, and
    `seconds` how long the server may be silent.
    """

    key: int
    number: int
    e: Tensor
    sampling: Sampling
    ids: list[int]
    seconds: float = _READ
    cancelled: threading.Event = field(default_factory=threading.Event)


class VLLMServerEngine(CaptionEngine):
    """A language model at work in a vLLM server.

    Draws are vLLM's, by seed. A request that the server breaks off is sent again with the tokens
    that it has; one that keeps failing is reported, and the others go on. A thread then asks
    whether the server works at all, until it does.
    """

    def __init__(
        self,
        parts: PromptParts,
        url: str,
        log: Callable[[str], None] | None = None,
        *,
        first_pause: float = 1.0,
        gives_up: bool = True,
    ) -> None:
        """Ask the server what it serves, and whether it takes such e. log: receives a line of it.

        first_pause: seconds before a request is sent again; doubled each time. gives_up: after many
        failures in a row `step` raises.

        Raises:
            ConfigError: the address, the key, or the server's model is not the right one.
            EngineError: the server does not answer.
        """
        key = checked_key(url)
        self._parts, self._url, self._first_pause = parts, url.rstrip("/"), first_pause
        self._shown = shown_address(self._url)
        self._client = httpx.Client(
            timeout=_timeout(_READ),
            limits=httpx.Limits(max_connections=_REQUESTS + 1),  # of `_ask` too
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            trust_env=not is_loopback(url),
        )
        self._open: dict[tuple[int, int], _Request] = {}
        self._events: queue.SimpleQueue[tuple[_Request, NewTokens | RequestFailed]]
        self._events = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(_REQUESTS, "vllm-request")
        self._failed, self._gives_up = 0, gives_up
        self._failing, self._closed = False, threading.Event()
        self._asking: threading.Thread | None = None
        try:
            self._model, self._positions = self._served()
            self._try_out()
        except BaseException:
            self.close()
            raise
        if log is not None:
            log(f"the vLLM server at {self._shown} serves {printable(self._model)}")

    @property
    def room(self) -> int:
        """See `CaptionEngine`."""
        return _REQUESTS - len(self._open)

    @property
    def positions(self) -> int:
        """See `CaptionEngine`."""
        return self._positions

    @property
    def failing(self) -> bool:
        """See `CaptionEngine`."""
        return self._failing

    def add(self, key: int, e: Tensor, sampling: Sampling, written: Sequence[int] = ()) -> None:
        """See `CaptionEngine`."""
        start = start_ids(self._parts.tokenizer, sampling.forced_start)
        check_length(len(e) + len(start), sampling, self._positions)
        for number in range(sampling.sequences):
            one = _Request(key, number, e.detach().to("cpu", torch.float32), sampling, [*written])
            self._open[key, number] = one
            if len(written) >= sampling.max_new_tokens:
                self._events.put((one, NewTokens(key, number, (), "length")))
            else:
                self._pool.submit(self._carry_out, one)

    def step(self) -> list[NewTokens | RequestFailed]:
        """See `CaptionEngine`. Waits a short while for news."""
        found: list[NewTokens | RequestFailed] = []
        while self._open:
            try:
                one, event = self._events.get(timeout=0 if found else _WAIT)
            except queue.Empty:
                break
            if self._open.get((one.key, one.number)) is not one:
                continue  # of a request that was cancelled
            found.append(event)
            if isinstance(event, RequestFailed):
                self._note_failure(event)
            elif event.finish is not None:
                self._failed = 0
                del self._open[one.key, one.number]
        return found

    def cancel(self, key: int) -> None:
        """See `CaptionEngine`."""
        for place in [place for place in self._open if place[0] == key]:
            self._open.pop(place).cancelled.set()

    def close(self) -> None:
        """See `CaptionEngine`."""
        self._closed.set()
        for key, _ in list(self._open):
            self.cancel(key)
        self._client.close()  # ends what the threads wait for
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _note_failure(self, event: RequestFailed) -> None:
        self.cancel(event.key)
        self._failed += 1
        if not event.refused and (self._asking is None or not self._asking.is_alive()):
            self._asking = threading.Thread(target=self._ask, name="vllm-asking", daemon=True)
            self._asking.start()
        if self._gives_up and self._failed >= _PATIENCE:
            raise EngineError(
                f"{_PATIENCE} captions in a row failed; the last one: {event.message}"
            )

    def _ask(self) -> None:
        """In a thread: ask for one token until it comes."""
        while not self._closed.is_set():
            try:
                self._write_one_token(_ANSWER)
            except Failed:
                self._failing = True
                self._closed.wait(_PAUSE)
            else:
                self._failing = False
                return

    def _carry_out(self, one: _Request) -> None:
        """In a thread: send a request until it is answered or given up."""
        pause, attempt = self._first_pause, 1
        barred: set[int] | None = set()
        while barred is not None:
            try:
                barred = self._receive(one, barred)
                pause, attempt = self._first_pause, 1
            except Failed as error:
                if one.cancelled.is_set():
                    return
                if not error.again or attempt == _ATTEMPTS:
                    self._events.put((one, RequestFailed(one.key, str(error), error.refused)))
                    return
                attempt += 1
                one.cancelled.wait(pause)
                pause *= 2
            if one.cancelled.is_set():
                return

    def _receive(self, one: _Request, barred: set[int]) -> set[int] | None:
        """Report the tokens of a request as they come; None when it is done.

        Else the request goes on with what it has, and the tokens that are returned do not come
        next: the server wrote a banned word in a spelling that it does not know. Raises Failed.
        """
        banned = spellings(self._parts.tokenizer, one.sampling.banned_words)
        before = len(one.ids)
        with self._streamed(self._body(one, banned, barred), one.seconds) as chunks:
            for chunk in chunks:
                if one.cancelled.is_set():
                    return None
                ids, finish = self._read(chunk, one)
                allowed = _allowed(one.ids, ids, banned)
                one.ids += allowed
                if len(allowed) < len(ids):
                    self._report(one, allowed, None)
                    more = barred if len(one.ids) == before else set()
                    return more | {ids[len(allowed)]}
                full = len(one.ids) >= one.sampling.max_new_tokens
                if finish == "length" and barred and not full:
                    self._report(one, allowed, None)
                    return set()
                if allowed or finish is not None:
                    self._report(one, allowed, finish)
                if finish is not None:
                    return None
        raise Failed(f"{self._shown} ended a caption without its end", again=True)

    def _report(self, one: _Request, ids: list[int], finish: Finish | None) -> None:
        if ids or finish is not None:
            self._events.put((one, NewTokens(one.key, one.number, tuple(ids), finish)))

    def _body(self, one: _Request, banned: list[list[int]], barred: set[int]) -> dict[str, Any]:
        """The JSON of a request; with `barred` tokens, of one for the next token alone."""
        sampling, written = one.sampling, len(one.ids)
        most = 1 if barred else sampling.max_new_tokens - written
        start = start_ids(self._parts.tokenizer, sampling.forced_start)
        behind = self._parts.token_embeddings([*start, *one.ids], torch.float32)
        never = barred | {ids[0] for ids in banned if len(ids) == 1}
        # vLLM looks for these behind a blank too, if they take as many tokens there.
        words = {self._parts.tokenizer.decode(ids).strip() for ids in banned if len(ids) > 1}
        return {
            "model": self._model,
            "prompt_embeds": encoded(torch.cat([one.e, behind])),
            "max_tokens": most,
            "min_tokens": min(most, max(0, sampling.min_new_tokens - written)),
            **selection(sampling, one.number, written),
            "logit_bias": {str(id): _DISCOURAGED for id in sorted(never)} or None,
            "bad_words": sorted(words),
            "stream": True,
            "return_token_ids": True,
        }

    @contextmanager
    def _streamed(self, body: dict[str, Any], seconds: float) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of an answer. Raises Failed."""
        to, timeout = f"{self._url}/completions", _timeout(seconds)
        try:
            with self._client.stream("POST", to, json=body, timeout=timeout) as response:
                if response.status_code != 200:
                    raise self._refusal(response)
                yield events(response)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Failed(f"{self._shown} does not answer ({error})", again=True) from error
        except (httpx.HTTPError, httpx.StreamError, RuntimeError) as error:
            # RuntimeError: of a client that was closed meanwhile
            name = type(error).__name__
            raise Failed(f"{self._shown} broke off a caption ({name})", again=True) from error

    def _refusal(self, response: httpx.Response) -> Failed:
        status = response.status_code
        message = message_of(response)
        shown = f"{self._shown} answers {status}" + (f" ({message})" if message else "")
        return Failed(shown, again=status in _BUSY, refused=status in _REFUSED)

    def _read(self, chunk: dict[str, Any], one: _Request) -> tuple[list[int], Finish | None]:
        """The tokens of one event, without the end token, and the end. Raises Failed."""
        try:
            if "error" in chunk:
                message = printable(str(chunk["error"].get("message")))[:300]
                raise Failed(f"{self._shown} cannot compute ({message})", again=True)
            choice = chunk["choices"][0]
            ids = [int(id) for id in choice.get("token_ids") or []]
            reason = choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise Failed(f"{self._shown} does not answer as vLLM does", again=False) from error
        end = self._parts.tokenizer.eos_token_id
        ended = reason == "stop"
        if ended and ids[-1:] == [end]:
            ids.pop()
        most = one.sampling.max_new_tokens - len(one.ids)
        if len(ids) > most or not all(0 <= id < len(self._parts.tokenizer) for id in ids):
            raise Failed(
                f"{self._shown} wrote tokens that were not asked for; does it serve the language "
                "model of this model folder?",
                again=False,
            )
        if reason not in (None, "stop", "length"):
            raise Failed(f"{self._shown} gave up a caption ({printable(str(reason))})", again=True)
        return ids, "end" if ended else "length" if reason == "length" else None

    def _served(self) -> tuple[str, int]:
        """The name and the positions of the server's model."""
        try:
            response = self._client.get(f"{self._url}/models")
            if response.status_code == 200:
                first = response.json()["data"][0]
                return str(first["id"]), int(first["max_model_len"])
        except httpx.HTTPError as error:
            raise EngineError(
                f"{self._shown} does not answer ({error or type(error).__name__}); start a server "
                f"with: vllm serve {self._parts.language_model} --enable-prompt-embeds"
            ) from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ConfigError(
                f"{self._shown} is no vLLM server; name its address with /v1, as in "
                "http://127.0.0.1:8000/v1"
            ) from error
        raise ConfigError(
            f"{self._shown} answers {response.status_code}; check --engine-url and the key in "
            f"{KEY_VARIABLE}"
        )

    def _try_out(self) -> None:
        """Have one token written, so that a server that takes no such e is found out at once."""
        try:
            self._write_one_token(_READ)
        except Failed as error:
            kind = EngineError if error.again else ConfigError
            raise kind(
                f"{error}; it has to be started with: vllm serve {self._parts.language_model} "
                "--enable-prompt-embeds"
            ) from error
        while not self._events.empty():
            self._events.get()

    def _write_one_token(self, seconds: float) -> None:
        """Of a request that nobody waits for. Raises Failed."""
        e = torch.zeros(2, self._parts.width)
        self._receive(_Request(-1, 0, e, Sampling(max_new_tokens=1), [], seconds), set())


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=_CONNECT, pool=None)


def _allowed(written: list[int], ids: list[int], banned: list[list[int]]) -> list[int]:
    """Those of new tokens that stand before the first one that completes a banned spelling."""
    whole = written + ids
    for end in range(len(written) + 1, len(whole) + 1):
        if any(whole[max(0, end - len(one)) : end] == one for one in banned):
            return whole[len(written) : end - 1]
    return ids
