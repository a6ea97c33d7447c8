"""The paper's recipes (configs/paper), those of newer decoders (configs/decoders), and what they
need of a GPU.

`python -m vlv.training.recipes` prints what each says of memory, and of cost where it is of a newer
decoder. Knows which published parts the recipes' folders hold; downloads nothing.
"""

import textwrap
from pathlib import Path

from vlv.checkpoints.skeleton import skeleton
from vlv.models.vlv import VLVModel
from vlv.training.cost.bill import Bill
from vlv.training.cost.gpus import gpu_named
from vlv.training.memory import Memory, stage_memory
from vlv.training.meta_steps import published_decoder
from vlv.training.pricing import price_run
from vlv.training.registry import stage_config
from vlv.training.reproduce import configs_folder
from vlv.training.stages.encoding import EncoderStageConfig
from vlv.training.stages.stage2 import Stage2Config

_COMMENT = "# Memory on each GPU (python -m vlv.training.recipes):\n# {memory}\n"


def recipes() -> list[Path]:
    """The config files."""
    return sorted((configs_folder() / "paper").glob("*.yaml"))


def decoder_recipes() -> list[Path]:
    """The config files of newer decoders."""
    return sorted((configs_folder() / "decoders").glob("*.yaml"))


def recipe_config(path: Path) -> EncoderStageConfig:
    """The checked config of a recipe; its name begins with its stage's."""
    config, _ = stage_config(path.stem.partition("-")[0], path)
    assert isinstance(config, EncoderStageConfig)  # the recipes are of stages 1 and 2
    return config


def recipe_memory(path: Path) -> Memory:
    """What one process of a recipe needs."""
    config = recipe_config(path)
    return stage_memory(config, recipe_skeleton(config), recipe_processes(path))


def recipe_processes(path: Path) -> int:
    """How many processes run a recipe: its name says `8gpu` where it is more than one."""
    count = path.stem.rpartition("-")[2].removesuffix("gpu")
    return int(count) if count.isdecimal() else 1


def recipe_skeleton(config: EncoderStageConfig) -> VLVModel:
    """The boxes that a recipe trains, without weights."""
    language_model = "Qwen/Qwen2.5-0.5B"  # stage 1 has none: the one that is built fastest
    if isinstance(config, Stage2Config) and config.language_model is not None:
        language_model = f"Qwen/{config.language_model.name}"
    return skeleton(decoder=published_decoder(config), language_model=language_model)


def memory_comment(memory: Memory) -> str:
    """What a recipe's file says of its memory."""
    return _COMMENT.format(memory=memory)


def recipe_bill(path: Path) -> Bill:
    """What a recipe costs on an H100."""
    return price_run(path, [], gpu=gpu_named("h100"))


def cost_comment(path: Path, bill: Bill) -> str:
    """What the file of a newer decoder's recipe says of its cost."""
    tokens = bill.work.caption_tokens
    captions = f" with captions of {tokens} tokens," if tokens else ""
    said = (
        f"Cost (vlv cost configs/decoders/{path.name} --gpu h100): "
        f"{bill.work.sample_flops / 1e12:.1f} TFLOP a picture,{captions} "
        f"{bill.gpu_hours:,.0f} hours of one H100 at 40% of its peak."
    )
    lines = textwrap.wrap(said, 98, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def main() -> None:
    """Print the comments of every recipe."""
    for path in [*recipes(), *decoder_recipes()]:
        print(path.name, memory_comment(recipe_memory(path)), sep="\n")
    for path in decoder_recipes():
        print(path.name, cost_comment(path, recipe_bill(path)), sep="\n")


if __name__ == "__main__":
    main()
