"""Options for the model, and for what runs it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vlv.cli.options.headings import MODEL

DEFAULT_MODEL = "vlv-mini"
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        envvar="VLV_MODEL",
        help="vlv-mini (bundled with the package), a model folder, or an id on the Hugging Face "
        "Hub.",
        rich_help_panel=MODEL,
    ),
]
ModelFolderOption = Annotated[
    Path,
    typer.Option("--model", help="The model folder to add it to.", rich_help_panel=MODEL),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        "--revision", help="Branch, tag or commit of a model on the Hub.", rich_help_panel=MODEL
    ),
]
NumQueriesOption = Annotated[
    int | None,
    typer.Option(
        "--num-queries",
        min=1,
        help="Use only the first so many caption embeddings of an image: faster, and meant for "
        "models that were trained with query_drop.",
        show_default="all",
        rich_help_panel=MODEL,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1 or mps.",
        show_default="the best one available",
        rich_help_panel=MODEL,
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="float32, bfloat16 or float16.",
        show_default="float32; bfloat16 for a full-size model on a GPU or CPU that computes in it",
        rich_help_panel=MODEL,
    ),
]
QuantizationOption = Annotated[
    Literal["8bit", "4bit", "int8"] | None,
    typer.Option(
        "--quantization",
        help="Quantize the language model: 8bit or 4bit with the extra `quantization`; int8 is "
        "faster on CPUs.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
EngineOption = Annotated[
    Literal["transformers", "vllm", "llama.cpp"],
    typer.Option(
        "--engine",
        help="What runs the language model. vllm and llama.cpp have no beam search, and need the "
        "extra of their name; llama.cpp needs a model folder of `vlv export gguf`.",
        rich_help_panel=MODEL,
    ),
]
EngineUrlOption = Annotated[
    str | None,
    typer.Option(
        "--engine-url",
        metavar="URL",
        help="With --engine vllm: a running vLLM server, such as http://127.0.0.1:8000/v1. Its key "
        "is read from VLV_ENGINE_KEY.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
OffloadOption = Annotated[
    bool,
    typer.Option(
        "--offload",
        help="Keep only the component that is computing in the GPU's memory.",
        rich_help_panel=MODEL,
    ),
]
