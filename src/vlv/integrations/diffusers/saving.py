"""A pipeline as the VLV that it is: its model folder, on a disk and on the Hub."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import SchedulerMixin

from vlv.checkpoints.diffusion import noise_schedule
from vlv.errors import ConfigError
from vlv.integrations.arguments import publishing_of, refuse_others
from vlv.integrations.diffusers.components import Components
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.text_tower import ConditioningEntry
from vlv.pipeline import VLV

# What diffusers notes in a config of values that were not given.
_DEFAULTS = "_use_default_values"


class Saved(Components):
    """`save_pretrained` and `push_to_hub` of a VLV, and the VLV itself."""

    def save_pretrained(self, save_directory: str | Path, **others: Any) -> None:
        """Write a model folder, as `VLV.save_pretrained` does, with the components of this
        pipeline and its scheduler; what was opened with them is written too.

        Raises ConfigError for arguments that would change the files, and cannot.
        """
        pushed, name = others.pop("push_to_hub", False), others.pop("repo_id", None)
        options = publishing_of(others)
        refuse_others(others)
        with self._as_written() as model:
            model.save_pretrained(save_directory)
        if pushed:
            self.push_to_hub(name or Path(save_directory).name, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes, and return the address of the commit.

        options: `vlv.checkpoints.publishing.publish`'s.
        """
        with self._as_written() as model:
            return model.push_to_hub(repo_id, **options)

    @contextmanager
    def _as_written(self) -> Iterator[VLV]:
        """`as_vlv` while its scheduler is that of this pipeline, whose files name it."""
        model = self.as_vlv()
        schedule, model.decoder.scheduler = model.decoder.scheduler, self.scheduler
        try:
            yield model
        finally:
            model.decoder.scheduler = schedule

    def as_vlv(self) -> VLV:
        """The same model as `vlv.VLV`, with the components that this pipeline has now. Its
        scheduler is the noise schedule of this pipeline's.

        Raises ConfigError where the encoder that was opened has been replaced, and CheckpointError
        for a scheduler of another kind of noise than the model's.
        """
        schedule = self._noise_schedule()
        if self._opened is None:
            drawing = DiffusionDecoder(
                self.vae, self.denoiser, schedule, self.image_size, self.family.name
            )
            return VLV.from_boxes(encoder=self.encoder, text_tower=self.text_tower, decoder=drawing)
        if self.encoder is not self._opened.encoder:
            raise ConfigError(
                "the encoder is not the one that was opened, whose captions and verifier would not "
                "fit; make a pipeline from its components"
            )
        decoder = self._opened.decoder
        decoder.vae, decoder.scheduler = self.vae, schedule
        setattr(decoder, self.family.record.denoiser, self.denoiser)
        tower = self._opened.text_tower
        inner = tower.inner if isinstance(tower, ConditioningEntry) else tower
        for name, encoder in self._text_encoders().items():
            setattr(inner, "clip" if name == "text_tower" else name, encoder)
        self._opened.device, self._opened.dtype = self.device, self.dtype
        if "caption_decoder" in self._opened.loaded:  # no component, so that it was not moved
            self._opened.caption_decoder.to(self.device, self.dtype)
        return self._opened

    def _noise_schedule(self) -> SchedulerMixin:
        """What the denoiser was trained on, of the sampler of this pipeline."""
        name = type(self.scheduler).__name__
        # As a file has it: defaults count as values, and the class is named.
        config = {k: v for k, v in self.scheduler.config.items() if k != _DEFAULTS}
        found = noise_schedule(
            {**config, "_class_name": name}, self.family.name, f"of the pipeline's {name}"
        )
        if self._opened is None:
            return found
        # What the sampler's config lacks or only samplers read is as it was when opened.
        kind: Any = type(found)
        before = {k: v for k, v in self._opened.decoder.scheduler.config.items() if k != _DEFAULTS}
        own = inspect.signature(kind.__init__).parameters.keys() & found.config.keys()
        made: SchedulerMixin = kind.from_config({**before, **{k: found.config[k] for k in own}})
        return made
