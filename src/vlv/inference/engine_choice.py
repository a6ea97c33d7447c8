"""The choice of an engine, and the engines that run the language model themselves: vLLM, a vLLM
server, llama.cpp.

Of the model folder, only psi, the tokenizer and single rows of token embeddings are read here; the
language model is loaded once, by the engine.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal

from vlv.checkpoints.memory import Work
from vlv.checkpoints.parts import CAPTIONING
from vlv.checkpoints.prompt_parts import load_prompt_parts
from vlv.errors import ConfigError
from vlv.inference.captioning import CaptionSettings
from vlv.inference.engines.engine import CaptionEngine
from vlv.inference.engines.prompts import Prompts
from vlv.models.config import BoxName
from vlv.models.vlv import VLVModel

EngineName = Literal["transformers", "vllm", "llama.cpp"]


@dataclass(frozen=True)
class EngineChoice:
    """What runs the language model; url: of a vLLM server.

    Raises ConfigError for an address of another engine.
    """

    name: EngineName = "transformers"
    url: str | None = None

    def __post_init__(self) -> None:
        if self.url is not None and self.name != "vllm":
            raise ConfigError(
                "--engine-url is of a vLLM server; add --engine vllm, or leave it out"
            )

    @property
    def elsewhere(self) -> bool:
        """Whether it is not the model's own caption decoder."""
        return self.name != "transformers"

    @property
    def boxes_here(self) -> tuple[BoxName, ...]:
        """The boxes that take memory of this machine while captions are written."""
        return CAPTIONING if self.url is None else CAPTIONING[:-1]

    def work(self, captions: CaptionSettings, batch_size: int) -> Work:
        """What the model has to do on this machine."""
        return Work(
            self.boxes_here,
            batch_size,
            captions.sequences,
            captions.max_new_tokens,
            searches=captions.searches,
        )

    def settings(self, captions: CaptionSettings) -> CaptionSettings:
        """Settings for this engine: one beam where it has no beam search, and no number was asked
        for. Raises ConfigError for more.
        """
        if not self.elsewhere:
            return captions
        if captions.num_beams is None:
            return replace(captions, num_beams=1)
        if captions.num_beams > 1:
            raise ConfigError(
                f"--engine {self.name} has no beam search, and {captions.num_beams} beams were "
                "asked for; set --num-beams 1, or use --engine transformers"
            )
        return captions

    def open(
        self, model: VLVModel, log: Callable[[str], None] | None = None, *, gives_up: bool = True
    ) -> tuple[CaptionEngine, Prompts] | tuple[None, None]:
        """The engine for a model that was opened from a folder, and what makes its prompts; None
        for the model's own. log: receives lines about the memory that the engine takes. gives_up:
        many failures of a vLLM server in a row are an error.

        Raises:
            ConfigError: the engine is not installed, or does not run this model as it was opened.
            EngineError: it does not start, or does not answer.
        """
        if not self.elsewhere:
            return None, None
        if model.quantization is not None or model.offload:
            raise ConfigError(
                "--quantization and --offload are of the engine transformers; leave them out with "
                f"--engine {self.name}"
            )
        parts = load_prompt_parts(model)
        engine: CaptionEngine
        if self.name == "llama.cpp":
            from vlv.inference.engines.llama_cpp import LlamaCppEngine

            engine = LlamaCppEngine(parts, log)
        elif parts.is_gguf:
            raise ConfigError(
                f"{model.opened_from} holds its language model as a GGUF file, which vLLM does not "
                "run with prompt embeddings; use --engine llama.cpp"
            )
        elif self.url is not None:
            if find_spec("httpx") is None:
                raise ConfigError(
                    "httpx, which --engine-url needs, is not installed; run: "
                    "pip install 'vlv[serve]'"
                )
            from vlv.inference.engines.vllm_server import VLLMServerEngine

            engine = VLLMServerEngine(parts, self.url, log, gives_up=gives_up)
        else:
            from vlv.inference.engines.vllm import VLLMEngine

            engine = VLLMEngine(parts, model.dtype, model.device, log)
        return engine, Prompts(parts.psi, parts.tokenizer, model.dtype)


def closed_after(engine: CaptionEngine | None) -> AbstractContextManager[object]:
    """Closes an engine, if there is one, at the end of a `with`."""
    return nullcontext() if engine is None else closing(engine)
