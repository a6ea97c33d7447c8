"""Options of commands that caption images by any model: how captions are generated, and where."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.options.captions import CaptionSeedOption, TemperatureOption
from vlv.cli.options.headings import GENERATION, PERFORMANCE
from vlv.cli.options.model import DeviceOption, DtypeOption

if TYPE_CHECKING:
    from vlv.evaluation.real.captioners import Generation


@dataclass(frozen=True)
class CaptioningOptions:
    """The settings of captions, the device and the size of batches."""

    num_beams: Annotated[
        int,
        typer.Option(
            "--num-beams",
            min=1,
            help="Beams of the search; not of an endpoint.",
            rich_help_panel=GENERATION,
        ),
    ] = 4
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens",
            min=1,
            help="Longest caption, in tokens.",
            rich_help_panel=GENERATION,
        ),
    ] = 300
    temperature: TemperatureOption = 0.0
    seed: CaptionSeedOption = 0
    device: DeviceOption = None
    dtype: DtypeOption = None
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", min=1, help="Images per batch.", rich_help_panel=PERFORMANCE),
    ] = 8

    def generation(self, prompt: str | None = None) -> "Generation":
        """How captions are generated. prompt: of a model that is not ours."""
        from vlv.evaluation.real.captioners import Generation

        return Generation(self.num_beams, self.max_new_tokens, self.temperature, self.seed, prompt)
