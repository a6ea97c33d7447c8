"""Captions without pictures: what a caption decoder reads in place of a picture's embeddings.

The frozen text tower makes c of a caption as the encoder makes it of a picture. So a text alone
teaches the caption decoder words, and combinations of words, that no picture showed.

Knows no network: an objective makes c of the token ids (`vlv.training.objectives.texts`).
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlv.errors import ConfigError
from vlv.models.tokenizers import PromptTokens
from vlv.training.config import WorldDataConfig
from vlv.training.samples.data_order import numpy_generator
from vlv.training.samples.source import Batch
from vlv.training.samples.world import scene_of
from vlv.world.language import short_caption
from vlv.world.scene import SPLITS

logger = logging.getLogger(__name__)


class TextsConfig(BaseModel):
    """Captions without pictures: a text file with a caption a line, or those of `count` scenes of
    a `split` of the embedded world, which nobody draws. A scene has two captions: one is read, the
    other is written. A line of a file is both.
    """

    model_config = ConfigDict(extra="forbid")

    file: Path | None = None
    split: str | None = None
    first_seed: int = Field(0, ge=0)
    count: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_source(self) -> "TextsConfig":
        if (self.file is None) == (self.split is None):
            raise ValueError("set either file or split")
        if (self.split is None) != (self.count is None):
            raise ValueError("count belongs to split: set both or neither")
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"there is no split {self.split}; the splits are {', '.join(SPLITS)}")
        return self


@dataclass(frozen=True)
class Texts:
    """Captions without pictures, at a `share` of the positions of a run: `lines` of text files, and
    captions of `scenes`. prompts: makes token ids for the text tower.
    """

    lines: Sequence[str]
    scenes: Sequence[WorldDataConfig]
    share: float
    seed: int
    prompts: PromptTokens

    @property
    def fingerprint(self) -> str | None:
        """Changes when the lines do; the config says which scenes there are."""
        if not self.lines:
            return None
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:12]

    def at(self, position: int) -> tuple[str | None, Batch]:
        """The caption to write at a position, None where the picture's is written; `of_text`, bool,
        whether it comes from a text; and `text_ids` (L,) of that text, of an empty one otherwise.
        """
        random = numpy_generator(self.seed, position, "texts")
        read, written = "", None
        if random.random() < self.share:
            count = len(self.lines) + sum(data.count for data in self.scenes)
            read, written = self._text(int(random.integers(count)), random)
        of_text = torch.tensor(written is not None)
        return written, {"of_text": of_text, "text_ids": self.prompts([read])[0]}

    def _text(self, number: int, words: np.random.Generator) -> tuple[str, str]:
        """Text `number` of all: what is read, and what is written."""
        if number < len(self.lines):
            return self.lines[number], self.lines[number]
        number -= len(self.lines)
        for data in self.scenes:
            if number < data.count:
                scene = scene_of(data, number)
                return short_caption(scene, words), short_caption(scene, words)
            number -= data.count
        raise IndexError(f"there is no text {number} after the last one")


def open_texts(
    sources: Sequence[TextsConfig], share: float, seed: int, prompts: PromptTokens
) -> Texts:
    """The captions that `sources` name. What a text tower would cut is left out, with a warning.

    Raises:
        ConfigError: a file cannot be read as UTF-8, or has no line that the text tower reads whole.
    """
    lines: list[str] = []
    scenes = []
    for source in sources:
        if source.file is not None:
            lines += _lines(source.file, prompts)
        else:
            scenes.append(WorldDataConfig(**source.model_dump(exclude={"file"})))
    return Texts(tuple(lines), tuple(scenes), share, seed, prompts)


def _lines(path: Path, prompts: PromptTokens) -> list[str]:
    try:
        given = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"texts: {path} cannot be read ({reason}); name a text file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"texts: {path} is no text in UTF-8 ({error}); save it as UTF-8"
        ) from error
    given = [line for line in given if line]
    whole = [line for line in given if prompts.reads_whole(line)]
    positions = min(prompts.room)
    if not whole:
        raise ConfigError(
            f"texts: {path} has no caption that the text encoder reads whole ({len(given)} lines, "
            f"room for {positions} tokens); write a shorter caption in each line"
        )
    if len(whole) < len(given):
        logger.warning(
            "texts: %d of the %d captions in %s are left out, since the text encoder reads only "
            "%d tokens",
            len(given) - len(whole),
            len(given),
            path,
            positions,
        )
    return whole
