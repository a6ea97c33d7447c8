"""Opens the engines that run the language model themselves: vLLM, a vLLM server, llama.cpp.

Of the model folder, only psi, the tokenizer and single rows of token embeddings are read here; the
language model is loaded once, by the engine.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

from vlv.checkpoints.prompt_parts import load_prompt_parts
from vlv.errors import ConfigError
from vlv.inference.captioning import CaptionSettings
from vlv.inference.engines.engine import CaptionEngine
from vlv.inference.engines.prompts import Prompts
from vlv.models.vlv import VLVModel

EngineElsewhere = Literal["vllm", "llama.cpp"]


def open_engine(
    name: EngineElsewhere,
    model: VLVModel,
    url: str | None = None,
    log: Callable[[str], None] | None = None,
) -> tuple[CaptionEngine, Prompts]:
    """An engine for the language model of a model that was opened from a folder, and what makes its
    prompts. url: of a vLLM server. log: receives lines about the memory that the engine takes.

    Raises:
        ConfigError: the engine is not installed, or does not run this model as it was opened.
        EngineError: it does not start, or does not answer.
    """
    if url is not None and name != "vllm":
        raise ConfigError(f"--engine-url is of a vLLM server; leave it out with --engine {name}")
    if model.quantization is not None or model.offload:
        raise ConfigError(
            f"--quantization and --offload are of the engine transformers; leave them out with "
            f"--engine {name}, whose language model is in the precision of the model or its GGUF "
            "file"
        )
    parts = load_prompt_parts(model)
    if name == "vllm" and parts.is_gguf:
        raise ConfigError(
            f"{model.opened_from} holds its language model as a GGUF file, which vLLM does not run "
            "with prompt embeddings; use --engine llama.cpp"
        )
    engine: CaptionEngine
    if name == "llama.cpp":
        from vlv.inference.engines.llama_cpp import LlamaCppEngine

        engine = LlamaCppEngine(parts, log)
    elif url is not None:
        from vlv.inference.engines.vllm_server import VLLMServerEngine

        engine = VLLMServerEngine(parts, url, log)
    else:
        from vlv.inference.engines.vllm import VLLMEngine

        engine = VLLMEngine(parts, model.dtype, model.device, log)
    return engine, Prompts(parts.psi, parts.tokenizer, model.dtype)


def without_beams(settings: CaptionSettings, name: str) -> CaptionSettings:
    """Settings for an engine without beam search: one beam where no number was asked for.

    Raises ConfigError for more.
    """
    if name not in get_args(EngineElsewhere):
        return settings
    if settings.num_beams is None:
        return replace(settings, num_beams=1)
    if settings.num_beams > 1:
        raise ConfigError(
            f"--engine {name} has no beam search, and {settings.num_beams} beams were asked for; "
            "set --num-beams 1, or use --engine transformers"
        )
    return settings
