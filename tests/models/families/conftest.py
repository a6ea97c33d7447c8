import pytest
import torch
from tests.models.families.tiny_families import TINY_FAMILIES
from tests.tiny import build_vlv, spread
from transformers import CLIPTokenizer, Qwen2Tokenizer, RobertaTokenizer

from vlv.models.config import FamilyName
from vlv.models.model_config import VLVConfig
from vlv.pipeline import VLV


@pytest.fixture(scope="session")
def models(
    florence_tokenizer: RobertaTokenizer,
    clip_tokenizer: CLIPTokenizer,
    qwen_tokenizer: Qwen2Tokenizer,
) -> dict[FamilyName, VLV]:
    """Frozen; weights large enough for outputs to differ clearly between inputs."""
    made = {}
    for name, config in TINY_FAMILIES.items():
        torch.manual_seed(0)
        model = build_vlv(
            VLVConfig.model_validate(config),
            encoder_tokenizer=florence_tokenizer,
            text_tokenizer=clip_tokenizer,
            language_tokenizer=qwen_tokenizer,
        )
        for box in (model.encoder, model.text_tower, model.decoder, model.caption_decoder):
            box.eval().requires_grad_(False)
        spread(model.encoder, model.text_tower, model.decoder.denoiser, model.caption_decoder)
        made[name] = model
    return made


@pytest.fixture(params=list(TINY_FAMILIES))
def model(request: pytest.FixtureRequest, models: dict[FamilyName, VLV]) -> VLV:
    """The tiny model of each family in turn."""
    return models[request.param]
