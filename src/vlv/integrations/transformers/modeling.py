"""A VLV as a model of transformers: `AutoModel`, `AutoModelForImageTextToText` and `pipeline` open
a model folder with it.

It holds the boxes that captions need. Those that draw are loaded when they are asked for, by
`vlv`, which is the same model as `vlv.VLV`.

Shapes: B images, S the encoder's image size, Q queries, d width of z, d_T of c, L tokens.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from vlv.errors import ConfigError
from vlv.files import atomic_large_file
from vlv.integrations.arguments import download_of, publishing_of, refuse_others
from vlv.integrations.transformers.configuration import VLVPreTrainedConfig

if TYPE_CHECKING:
    from vlv.pipeline import VLV

# The library's own name is in a module that must not be imported here: it imports peft, which
# imports this one.
_TRAINER_CHECKPOINT = re.compile(r"checkpoint-\d+")


@dataclass
class VLVOutput(ModelOutput):
    """What a VLV makes of images: the loss of captions, if labels were given; the caption
    embeddings z (B,Q,d); the tokens of the conditioning c (B,Q,d_T).
    """

    loss: Tensor | None = None
    caption_embeddings: Tensor | None = None
    conditioning: Tensor | None = None


class VLVForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Images -> captions, behind the interface of transformers.

    Make it with `from_pretrained`, or from an opened model: `VLVForConditionalGeneration(config,
    model)`.
    """

    config_class = VLVPreTrainedConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    # The loss of a batch is a mean, which the `Trainer` has to divide by the steps it accumulates.
    # It would not for a `forward` that takes any argument, as this one does.
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules: Sequence[str] = ()

    def __init__(self, config: VLVPreTrainedConfig, model: "VLV | None" = None) -> None:
        if model is None:
            raise ConfigError(
                "config.json holds no sizes of a VLV, so that it builds none; open a model folder "
                "with from_pretrained"
            )
        super().__init__(config)
        self._vlv = model
        self.encoder = model.encoder
        self.text_tower = model.text_tower
        self.caption_decoder = model.caption_decoder
        # What one file of weights names once, and a `Trainer` does not miss in it.
        self._keys_to_ignore_on_save = _tied(self.state_dict())
        tokenizer = self.caption_decoder.tokenizer
        self.generation_config = GenerationConfig(
            num_beams=4,
            max_new_tokens=300,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=self.caption_decoder.lm.generation_config.pad_token_id,
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: VLVPreTrainedConfig | None = None,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        quantization: Any = None,
        **others: Any,
    ) -> Self:
        """Open a model folder, an id of the package, or of the Hub.

        dtype: None and "auto" are that of `VLV.from_pretrained`; torch_dtype is its old name.
        device_map: one device, or "auto" for the best there is; None is the CPU. quantization:
        "8bit" or "4bit", of the language model, which needs a device_map. attn_implementation,
        which transformers puts into the config, is that of all networks. `others` may hold
        `VLV.from_pretrained`'s token, cache_dir, local_files_only and force_download.

        Raises CheckpointError for a model that cannot be opened, and ConfigError for arguments of
        transformers that a VLV cannot honour.
        """
        from vlv.checkpoints.parts import GENERATION_FILE
        from vlv.pipeline import VLV

        download = download_of(others)
        refuse_others(others)
        dtype, device = dtype or torch_dtype, _device(device_map)
        opened = VLV.from_pretrained(
            pretrained_model_name_or_path,
            revision=revision,
            dtype=None if dtype == "auto" else dtype,
            device=device if quantization is not None else None,
            quantization=quantization,
            **download,
        )
        opened.to(opened.device if device == "auto" else device)
        attention = None if config is None else config._attn_implementation
        model = cls(config or cls.config_class(), opened).eval()
        if attention is not None:
            for network in (
                model.encoder.florence,
                *model.text_tower.encoders.values(),
                model.caption_decoder.lm,
            ):
                network.set_attn_implementation(attention)
        model.name_or_path = str(pretrained_model_name_or_path)
        if opened.folder is not None and (opened.folder / GENERATION_FILE).is_file():
            model.generation_config = GenerationConfig.from_pretrained(opened.folder)
        return model

    @property
    def vlv(self) -> "VLV":
        """The same model, with the same weights, as `vlv.VLV`: `caption`, `reconstruct`,
        `verify` and the rest.
        """
        self._vlv.device, self._vlv.dtype = self.device, self.dtype
        if "decoder" in self._vlv.loaded:  # no module of this one, so that it was not moved with it
            self._vlv.decoder.to(self.device, self.dtype)
        return self._vlv

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **unused: Any
    ) -> VLVOutput:
        """Embeddings of pixels (B,3,S,S), and with labels the loss of captions.

        labels (B,L): the tokens of each caption with its end token, then -100.
        """
        model = self.vlv
        z = self.encoder(pixel_values.to(self.dtype))  # (B,Q,d)
        c = self.text_tower.forward(z).tokens  # (B,Q,d_T)
        loss = None
        if labels is not None:
            read = z if model.manifest.config.captions_from == "z" else c
            lengths = (labels != -100).sum(1)
            loss = self.caption_decoder(read, labels.clamp_min(0), lengths)
        return VLVOutput(loss, z, c)

    @torch.no_grad()
    def generate(
        self,
        pixel_values: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_ids: Tensor | None = None,
        **settings: Any,
    ) -> Any:
        """Rows of tokens of captions, padded on the right, for pixels (B,3,S,S).

        input_ids (B,L): the words that each caption begins with, which its row repeats; an end
        token ends them. `settings` are those of the language model's `generate`, and change this
        model's `generation_config`: 4 beams and 300 tokens, as `VLV.caption` has them.

        Raises ConfigError without pixels, and for beginnings that differ in one call with
        `return_dict_in_generate`.
        """
        if pixel_values is None:
            raise ConfigError("a VLV captions images: give pixel_values, as its processor does")
        config = copy.deepcopy(self.generation_config)
        if generation_config is not None:
            config.update(**generation_config.to_diff_dict())
        rest = config.update(**settings)
        rest.pop("attention_mask", None)  # of input_ids, whose end tokens say as much
        read = self.vlv.read(self.encoder(pixel_values.to(self.device, self.dtype)))  # (B,Q,d_T)
        begun = _begun(input_ids, len(read), self.caption_decoder.tokenizer.eos_token_id)
        groups = {start: [at for at, one in enumerate(begun) if one == start] for start in begun}
        if config.return_dict_in_generate and len(groups) > 1:
            raise ConfigError(
                "return_dict_in_generate takes captions that all begin alike; call generate once "
                "for each beginning"
            )
        copies = config.num_return_sequences or 1
        rows: list[Tensor] = [torch.empty(0)] * (len(read) * copies)
        for start, places in groups.items():
            made = self.caption_decoder.write(read[places], config, start, **rest)
            sequences = _after(start, made if isinstance(made, Tensor) else made.sequences)
            if not isinstance(made, Tensor):
                made.sequences = sequences
                return made
            for number, row in enumerate(sequences):
                rows[places[number // copies] * copies + number % copies] = row
        return torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=config.pad_token_id
        )

    def save_pretrained(self, save_directory: str | Path, **others: Any) -> None:
        """Write a model folder, as `VLV.save_pretrained` does: with all components, the files that
        open it in transformers, and a model card. What else is in the folder stays, such as the
        checkpoints of a `Trainer`. A folder that is named as one of those also holds the weights of
        captions in one file, from which the `Trainer` goes on.

        others: push_to_hub, repo_id, and the options of the method `push_to_hub`; state_dict, which
        is this model's. With `is_main_process=False` nothing is written.

        Raises ConfigError for arguments that would change the files, and cannot.
        """
        from vlv.checkpoints.opening import save_model
        from vlv.checkpoints.parts import GENERATION_FILE, TRANSFORMERS_WEIGHTS

        folder = Path(save_directory)
        pushed, name = others.pop("push_to_hub", False), others.pop("repo_id", None)
        options, writes = publishing_of(others), others.pop("is_main_process", True)
        others.pop("state_dict", None)
        refuse_others(others)
        if not writes:
            return
        save_model(self.vlv, folder, shared=True)
        self.generation_config.save_pretrained(folder, config_file_name=GENERATION_FILE)
        if _TRAINER_CHECKPOINT.fullmatch(folder.name):
            weights = self.state_dict()
            kept = {name: weights[name].contiguous() for name in weights.keys() - _tied(weights)}
            with atomic_large_file(folder / TRANSFORMERS_WEIGHTS) as unfinished:
                save_file(kept, unfinished, metadata={"format": "pt"})
        if pushed:
            self.push_to_hub(name or folder.name, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes, and return the address of the commit.

        options: `vlv.checkpoints.publishing.publish`'s.
        """
        from vlv.checkpoints.publishing import publish

        return publish(self.save_pretrained, repo_id, **options)


def _tied(weights: dict[str, Tensor]) -> set[str]:
    """The names of weights that have another name before."""
    first: dict[int, str] = {}
    for name, weight in weights.items():
        first.setdefault(weight.data_ptr(), name)
    return weights.keys() - set(first.values())


def _device(device_map: Any) -> str:
    if isinstance(device_map, dict):
        if set(device_map) != {""}:
            raise ConfigError(
                'a VLV is on one device; device_map is "auto", a device, or {"": device}'
            )
        device_map = device_map[""]
    if isinstance(device_map, int):
        return f"cuda:{device_map}"
    return "cpu" if device_map is None else str(device_map)


def _begun(input_ids: Tensor | None, count: int, end: int) -> list[tuple[int, ...]]:
    """The tokens that each caption begins with, up to their end token."""
    if input_ids is None:
        return [()] * count
    if len(input_ids) != count:
        raise ConfigError(f"there are {len(input_ids)} rows of input_ids for {count} images")
    rows = input_ids.tolist()
    return [tuple(row[: row.index(end)] if end in row else row) for row in rows]


def _after(start: tuple[int, ...], rows: Tensor) -> Tensor:
    """Rows of tokens with `start` before them."""
    before = torch.tensor([start], dtype=rows.dtype, device=rows.device).expand(len(rows), -1)
    return torch.cat([before, rows], dim=1)
