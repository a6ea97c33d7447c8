"""The facade: a VLV model that opens, captions, verifies, draws and saves, for scripts and
notebooks. It behaves as the command line does: the same device, the same cleaning of captions, the
same warnings.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from vlv.checkpoints.hub import DownloadOptions
from vlv.checkpoints.opening import save_model
from vlv.checkpoints.parts import Quantization
from vlv.checkpoints.publishing import publish
from vlv.errors import ConfigError, OutOfDistributionWarning
from vlv.inference.captioning import CaptionSettings, caption_images
from vlv.inference.loading import named_dtype, open_model
from vlv.inference.presets import caption_settings, preset
from vlv.inference.records import Captioned, ImageInput, Refused
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.config import Component
from vlv.models.outputs import ImageOutput
from vlv.models.preprocessing import Images, as_list, name_of
from vlv.models.vlv import VLVModel
from vlv.verification.verdicts import SentenceSupport
from vlv.verification.verifier import FALSE_ALARM_RATE, Verifier, verifier_of
from vlv.verification.verify import verify_caption

__all__ = ["VLV", "ImageOutput"]

# So many out-of-distribution images are named in a warning.
_NAMED = 5


class VLV(VLVModel):
    """One model that captions images and draws them again from the same embeddings z.

    Make it with `from_pretrained` or `from_components`. Beside the methods here it has those of
    `VLVModel`: `encode`, `reconstruct`, `compose`, `draw`, and the boxes themselves.
    """

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | Path = "vlv-mini",
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        base_models: Mapping[str, str | Path] | None = None,
        quantization: Quantization | None = None,
        offload: bool = False,
        *,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Open an embedded id, a model folder or a Hub id; weights load on first use.

        device None means the best one there is. dtype None means bfloat16 for a model of over a
        billion parameters on a device that computes in it, and float32 otherwise. A checkpoint in
        the layout of the paper's authors is converted once, into a cache; `base_models` names its
        base models, `encoder`, `decoder` and `language_model`, where they are not the paper's.
        quantization ("8bit", "4bit", or "int8" on CPUs, of the language model) and offload lower
        the memory that is needed. token, cache_dir, local_files_only and force_download say how
        files come from the Hub, as everywhere in Hugging Face's libraries.

        Raises CheckpointError for a model that is missing, damaged, or does not fit, and
        ConfigError for a device, dtype or quantization that there is not. Errors of a box appear
        when that box is first used.
        """
        return open_model(
            id_or_path,
            revision=revision,
            device=None if device is None else str(device),
            dtype=dtype,
            quantization=quantization,
            offload=offload,
            base_models=base_models,
            download=DownloadOptions(token, cache_dir, local_files_only, force_download),
        ).as_kind(cls)

    @classmethod
    def from_components(
        cls,
        encoder: str | Path | None = None,
        decoder: str | Path | None = None,
        language_model: str | Path | None = None,
        *,
        revision: Mapping[str, str] | None = None,
        num_queries: int | None = None,
        decoder_image_size: int = 384,
        dtype: torch.dtype | str | None = None,
    ) -> Self:
        """An untrained VLV of published models, by Hub id or local folder.

        encoder: a Florence-2 for transformers' own classes. decoder: a text-to-image model of a
        supported family (`vlv.models.families`) in diffusers' layout. language_model: any causal
        language model of transformers. None: the paper's (`vlv.checkpoints.published`). revision:
        by the names of these arguments.
        num_queries: None is the text tower's positions. Queries, phi and psi are fresh, from
        torch's global generator; their widths follow the base models, whose ids, commits and
        licences go into `provenance`.

        Raises CheckpointError for a base model that is missing or does not fit.
        """
        from vlv.checkpoints.assemble import assemble

        return assemble(
            encoder,
            decoder,
            language_model,
            revision=revision,
            num_queries=num_queries,
            decoder_image_size=decoder_image_size,
            dtype=named_dtype(dtype) or torch.float32,
        ).as_kind(cls)

    def save_pretrained(
        self,
        path: str | Path,
        dtype: torch.dtype | str | None = None,
        components: Iterable[Component] | None = None,
    ) -> None:
        """Write the model folder at once: it is built beside its place and renamed into it.

        dtype is that of the stored weights (None keeps the model's); components picks parts of
        the model. Raises ConfigError when the place holds something that is no model, and for a
        language model that was opened with quantization.
        """
        save_model(self, path, named_dtype(dtype), components)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes, with a model card; the address of the commit.

        options: private, token, revision, create_pr, commit_message. Raises CheckpointError where
        the Hub does not take it.
        """
        return publish(self.save_pretrained, repo_id, **options)

    @property
    def verifier(self) -> Verifier | None:
        """Turns evidence against sentences into verdicts; None where the model has none."""
        return verifier_of(self)

    @property
    def captioner(self) -> CaptionDecoder:
        """The caption decoder, by its old name."""
        warnings.warn(
            "`captioner` is called `caption_decoder` now", DeprecationWarning, stacklevel=2
        )
        return self.caption_decoder

    def caption(self, images: Images, batch_size: int = 16, **settings: Any) -> list[str]:
        """One caption for each image, as `vlv caption` writes it, cleaning included.

        `settings` are those of `CaptionSettings` (num_beams, max_new_tokens, temperature, ...) and
        of `Cleaning` (drop_unfinished, drop_repeated). num_return_sequences N gives N captions for
        each image, side by side. The caption is "" if the model writes nothing.

        One `OutOfDistributionWarning` a call counts the images that are unlike those of training,
        and names the first: their captions cannot be trusted.

        Raises:
            ConfigError: a setting does not exist, or has a wrong value.
            ImageError: an image cannot be decoded; it is named before any caption is written.
        """
        wanted = settings_of(settings)
        many = as_list(images)
        inputs = [ImageInput(name_of(one, at), one) for at, one in enumerate(many)]
        results = list(caption_images(self, inputs, wanted, batch_size=batch_size))
        _warn_of_ood(results)
        captions: list[str] = []
        for one in results:
            texts = [] if isinstance(one, Refused) else one.texts
            captions += texts + [""] * (wanted.num_return_sequences - len(texts))
        return captions

    def verify(
        self,
        image: Image.Image,
        caption: str,
        *,
        z: Tensor | None = None,
        in_distribution: bool | None = None,
        false_alarm_rate: float = FALSE_ALARM_RATE,
    ) -> list[SentenceSupport]:
        """Whether the image supports each sentence of a caption, by the denoising error.

        The verdict on an image or a sentence that is unlike those of training is "cannot_judge".
        Of true sentences about `false_alarm_rate` are called unsupported. z (1,Q,d) of the image,
        and whether it is in distribution: where they are known already. Raises CheckpointError for
        a model without a verifier or without a decoder, ConfigError for several images or captions,
        and ImageError for an image that does not decode.
        """
        many = as_list(image)
        if len(many) != 1 or not isinstance(caption, str):
            raise ConfigError("verify takes one image and its caption as a text; call it for each")
        return verify_caption(
            self,
            many[0],
            caption,
            z=z,
            in_distribution=in_distribution,
            false_alarm_rate=false_alarm_rate,
        )


def settings_of(given: Mapping[str, Any]) -> CaptionSettings:
    """The settings of `VLV.caption`; ConfigError names one that does not exist."""
    known = {one.name for one in fields(CaptionSettings)} - {"cleaning"}
    known |= {"drop_unfinished", "drop_repeated"}
    for name in given:
        if name == "do_sample":
            raise ConfigError("there is no setting 'do_sample'; a temperature above 0 samples")
        if name not in known:
            raise ConfigError(
                f"there is no setting {name!r} of captions; use {', '.join(sorted(known))}"
            )
    return caption_settings(preset(None), given)


def _warn_of_ood(results: Sequence[Captioned | Refused]) -> None:
    """One warning for a call of `VLV.caption`, with the names of the first images."""
    names = [
        one.name for one in results if isinstance(one, Captioned) and one.in_distribution is False
    ]
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        warnings.warn(
            f"{len(names)} of {len(results)} images are unlike those that this model was trained "
            f"on ({', '.join(names[:_NAMED])}{more}): their captions cannot be trusted",
            OutOfDistributionWarning,
            stacklevel=3,
        )
