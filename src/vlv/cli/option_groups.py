"""Groups of options that commands share. A parameter of such a type stands for its fields.

command.py turns the fields into options. Each group knows what its options mean together: the
images that were named, the settings of captions, the opened model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlv.cli.common import add_to_ood_list, check_ood_list, require_images
from vlv.cli.options.captions import (
    DEFAULT_FALSE_ALARM_RATE,
    AppendOption,
    BannedWordsOption,
    BestOfOption,
    CaptionSeedOption,
    DropRepeatedOption,
    DropUnfinishedOption,
    DropUnsupportedOption,
    FalseAlarmRateOption,
    ForcedStartOption,
    MaxNewTokensOption,
    MinNewTokensOption,
    NumBeamsOption,
    NumReturnSequencesOption,
    OodListOption,
    PrependOption,
    PresetOption,
    SkipOodOption,
    TemperatureOption,
    TopPOption,
    VerifyOption,
)
from vlv.cli.options.drawing import (
    NoiseSeedOption,
    PresetGuidanceScaleOption,
    PresetSchedulerOption,
    PresetStepsOption,
)
from vlv.cli.options.files import FilelistOption, GlobOption, InputsArgument, RecursiveOption
from vlv.cli.options.model import (
    DEFAULT_MODEL,
    DeviceOption,
    DtypeOption,
    EngineOption,
    EngineUrlOption,
    ModelOption,
    NumQueriesOption,
    OffloadOption,
    QuantizationOption,
    RevisionOption,
)
from vlv.errors import ConfigError

if TYPE_CHECKING:
    from vlv.checkpoints.memory import Work
    from vlv.inference.captioning import CaptionSettings
    from vlv.inference.engine_choice import EngineChoice
    from vlv.inference.inputs import Found
    from vlv.inference.presets import Preset
    from vlv.inference.reconstruction import DrawSettings
    from vlv.inference.verification import CheckSettings
    from vlv.models.vlv import VLVModel


@dataclass(frozen=True)
class InputOptions:
    """Images in every form that commands accept."""

    paths: InputsArgument = None
    patterns: GlobOption = None
    filelist: FilelistOption = None
    recursive: RecursiveOption = False

    def find(self) -> "Found":
        """The images that were named.

        Raises:
            ConfigError: nothing was named.
            DatasetError: there is no image in what was named.
        """
        from vlv.inference.inputs import find_inputs

        paths, patterns = self.paths or [], self.patterns or []
        if not (paths or patterns or self.filelist):
            raise ConfigError("name images or folders, or give --glob or --filelist")
        found = find_inputs(
            paths, patterns=patterns, filelist=self.filelist, recursive=self.recursive
        )
        if not found.sets:
            listed = [self.filelist] if self.filelist else []
            require_images(found, [*paths, *map(Path, patterns), *listed], self.recursive)
        return found

    def folders(self, found: "Found") -> list[Path]:
        """The folders and files that were named; for patterns and lists, the images found."""
        if self.patterns or self.filelist:
            return [*found.images, *(one for one in found.sets if isinstance(one, Path))]
        return self.paths or []

    @property
    def is_one_file(self) -> bool:
        """Whether a single path was named, and it is no folder."""
        if self.patterns or self.filelist or self.paths is None or len(self.paths) != 1:
            return False
        return not self.paths[0].is_dir()


@dataclass(frozen=True)
class GenerationOptions:
    """How captions are generated, and what is put around them."""

    num_beams: NumBeamsOption = None
    num_return_sequences: NumReturnSequencesOption = 1
    max_new_tokens: MaxNewTokensOption = None
    min_new_tokens: MinNewTokensOption = 0
    temperature: TemperatureOption = 0.0
    top_p: TopPOption = 1.0
    seed: CaptionSeedOption = 0
    forced_start: ForcedStartOption = ""
    banned_words: BannedWordsOption = ""
    num_queries: NumQueriesOption = None
    drop_unfinished: DropUnfinishedOption = None
    drop_repeated: DropRepeatedOption = None
    prepend: PrependOption = ""
    append: AppendOption = ""

    def settings(self, preset: "Preset", **changes: Any) -> "CaptionSettings":
        """The preset's settings with the given options, and with `changes`."""
        from vlv.inference.presets import caption_settings

        banned = tuple(word for word in self.banned_words.split(",") if word.strip())
        given = vars(self) | {"banned_words": banned}
        del given["prepend"], given["append"]  # `surround` puts them around the captions
        return caption_settings(preset, given | changes)


@dataclass(frozen=True)
class CheckOptions:
    """How captions are checked, and what becomes of out-of-distribution images."""

    verify: VerifyOption = False
    drop_unsupported: DropUnsupportedOption = False
    false_alarm_rate: FalseAlarmRateOption = DEFAULT_FALSE_ALARM_RATE
    best_of: BestOfOption = 1
    skip_ood: SkipOodOption = False
    ood_list: OodListOption = None

    def check(self, generation: GenerationOptions) -> None:
        """Raise ConfigError for options that contradict each other."""
        if self.best_of > 1 and generation.num_return_sequences > 1:
            raise ConfigError("--best-of keeps one caption; leave out --num-return-sequences")
        if self.best_of > 1 and (generation.num_beams or 1) > 1:
            raise ConfigError(
                "--best-of chooses among samples, which are drawn with one beam each; leave out "
                f"--num-beams {generation.num_beams}"
            )
        if self.false_alarm_rate != DEFAULT_FALSE_ALARM_RATE and not self._marks:
            raise ConfigError("--false-alarm-rate needs --verify or --drop-unsupported; add one")
        if self.ood_list is not None:
            check_ood_list(self.ood_list)

    @property
    def _marks(self) -> bool:
        return self.drop_unsupported or self.verify

    def sampling(self, generation: GenerationOptions) -> dict[str, Any]:
        """The changes to the settings of captions that make some to choose from. Beams differ in
        words more than in facts. Samples differ in facts, so there is a best one. They have one
        beam, whatever the preset says: those of several would be beams of one search.
        """
        if self.best_of == 1:
            return {}
        return {
            "num_beams": 1,
            "num_return_sequences": self.best_of,
            "temperature": generation.temperature or 1.0,
        }

    @property
    def settings(self) -> "CheckSettings":
        """What is done to captions after they are written."""
        from vlv.inference.verification import CheckSettings

        return CheckSettings(
            self.best_of > 1, self.drop_unsupported, self.verify, self.false_alarm_rate
        )

    def require(self, model: "VLVModel", name: str) -> None:
        """Raise CheckpointError or ConfigError for a model without what the checks need."""
        from vlv.inference.verification import require_parts

        if self.settings.any:
            require_parts(model, marks=self._marks)
        if (self.skip_ood or self.ood_list is not None) and model.ood_detector is None:
            raise ConfigError(
                f"{name} has no OOD detector, which --skip-ood and --ood-list need; "
                "`vlv ood-detector` adds one to a model folder"
            )

    def list_ood(self, names: Sequence[str]) -> None:
        """Add names of out-of-distribution images to --ood-list, if there is one."""
        if self.ood_list is not None:
            add_to_ood_list(self.ood_list, names)


@dataclass(frozen=True)
class DiffusionOptions:
    """How images are generated, for commands with --preset."""

    guidance_scale: PresetGuidanceScaleOption = None
    num_inference_steps: PresetStepsOption = None
    scheduler: PresetSchedulerOption = None
    seed: NoiseSeedOption = 0

    def settings(self, preset: "Preset") -> "DrawSettings":
        """The preset's settings with the given options."""
        from vlv.inference.presets import draw_settings

        return draw_settings(preset, vars(self))


@dataclass(frozen=True)
class ModelOptions:
    """Which model is opened, and how."""

    model: ModelOption = DEFAULT_MODEL
    revision: RevisionOption = None
    device: DeviceOption = None
    dtype: DtypeOption = None

    def open(self, work: "Work | None" = None) -> "VLVModel":
        """Open the model for `work`. Raises ConfigError and CheckpointError."""
        from vlv.inference.loading import open_model

        settings = vars(self).copy()
        return open_model(settings.pop("model"), work=work, **settings)


@dataclass(frozen=True)
class OffloadModelOptions(ModelOptions):
    """The same, with --offload."""

    offload: OffloadOption = False


@dataclass(frozen=True)
class EngineOptions:
    """What runs the language model."""

    engine: EngineOption = "transformers"
    engine_url: EngineUrlOption = None

    @property
    def choice(self) -> "EngineChoice":
        """What was chosen. Raises ConfigError for an address of another engine than vLLM."""
        from vlv.inference.engine_choice import EngineChoice

        return EngineChoice(self.engine, self.engine_url)


@dataclass(frozen=True)
class PresetModelOptions(OffloadModelOptions):
    """The same, with --quantization and --preset."""

    quantization: QuantizationOption = None
    preset: PresetOption = None

    def open(self, work: "Work | None" = None) -> "VLVModel":
        """Open the model for `work`, in the preset's precision where --dtype is not given."""
        from vlv.inference.loading import open_model

        settings = vars(self) | {"dtype": self.chosen_dtype}
        del settings["preset"]
        return open_model(settings.pop("model"), work=work, **settings)

    @property
    def chosen_preset(self) -> "Preset":
        """The settings of --preset, or the defaults of the project."""
        from vlv.inference.presets import preset

        return preset(self.preset)

    @property
    def chosen_dtype(self) -> str | None:
        """What --dtype says, or else the preset."""
        return self.dtype or self.chosen_preset.dtype
