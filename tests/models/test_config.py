from pathlib import Path

import pytest
import yaml
from tests.tiny import build_vlv

from vlv.errors import ConfigError
from vlv.models.model_config import VLVConfig
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)

MINI = Path(__file__).parents[2] / "configs" / "mini" / "model.yaml"


def test_the_mini_config_builds_a_model_of_the_stated_shape() -> None:
    config = VLVConfig.from_yaml(MINI)
    texts = ["a red cube", "a red cube"]
    vlv = build_vlv(
        config,
        encoder_tokenizer=train_florence_tokenizer(texts),
        text_tokenizer=train_clip_tokenizer(texts),
        language_tokenizer=train_qwen2_tokenizer(texts),
    )
    encoder = vlv.encoder
    assert encoder.queries.shape == (1, 77, 192)
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 6_000_000
    pixels = encoder.queries.new_zeros(1, 3, 64, 64)
    assert encoder.florence.get_image_features(pixels).pooler_output.shape == (1, 65, 192)
    z = encoder(pixels)
    assert z.shape == (1, 77, 128)
    assert vlv.condition(z).tokens.shape == (1, 77, 128)
    latents = vlv.decoder.encode_images(pixels)
    assert latents.shape == (1, 8, 8, 8)
    assert vlv.decoder.decode_latents(latents).shape == (1, 3, 64, 64)


def _broken(tmp_path: Path, where: list[str], value: object) -> Path:
    data = yaml.safe_load(MINI.read_text())
    inner = data
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (["encoder", "num_querys"], 3, "encoder.num_querys"),
        (["encoder", "num_queries"], 78, "must not exceed"),
        (["encoder", "florence", "text_config", "d_model"], 96, "projection_dim"),
        (["unet", "cross_attention_dim"], 64, "cross_attention_dim"),
        (["unet", "in_channels"], 4, "in_channels"),
        (["decoder_image_size"], "large", "decoder_image_size"),
    ],
)
def test_a_wrong_field_is_named(
    tmp_path: Path, where: list[str], value: object, message: str
) -> None:
    path = _broken(tmp_path, where, value)
    with pytest.raises(ConfigError, match=message) as error:
        VLVConfig.from_yaml(path)
    assert str(path) in str(error.value)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        VLVConfig.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        VLVConfig.from_yaml(tmp_path / "bad.yaml")
