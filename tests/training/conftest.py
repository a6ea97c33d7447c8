"""A miniature of the mini: every stage run for two steps, once a test run, in the real order."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.shared import shared_folder

from vlv.training.loop import train
from vlv.training.registry import build_stage

TINY_MODEL: dict[str, Any] = {
    "decoder_image_size": 64,
    "encoder": {
        "image_size": 64,
        "num_queries": 8,
        "florence": {
            "vision_config": {
                "depths": [1],
                "patch_size": [7],
                "patch_stride": [8],
                "patch_padding": [3],
                "patch_prenorm": [False],
                "embed_dim": [16],
                "num_heads": [2],
                "num_groups": [2],
                "window_size": 4,
                "drop_path_rate": 0.0,
                "max_position_embeddings": 16,
                "max_temporal_embeddings": 1,
                "projection_dim": 16,
            },
            "text_config": {
                "d_model": 16,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "encoder_attention_heads": 2,
                "decoder_attention_heads": 2,
                "encoder_ffn_dim": 32,
                "decoder_ffn_dim": 32,
                "max_position_embeddings": 128,
                "dropout": 0.0,
            },
        },
    },
    "text_tower": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
    },
    "vae": {
        "sample_size": 64,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [4, 4, 8, 8],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
    },
    "unet": {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
    },
    "scheduler": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "steps_offset": 1,
    },
    "language_model": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
}


class Workshop:
    """A folder with tiny configs, and the stages that were run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / "model.yaml").exists():
            (root / "model.yaml").write_text(yaml.safe_dump(TINY_MODEL))
        self._common: dict[str, Any] = {
            "model": "model.yaml",
            "data": {"folder": str(root / "world"), "count": 32, "workers": 1},
            "validation_count": 8,
            "max_train_steps": 2,
            "train_batch_size": 4,
            "learning_rate": 1.0e-3,
            "report_to": "none",
            "num_threads": 1,
        }
        final = {name: str(root / name / "final") for name in ("vae", "t2i", "lm", "s1", "s2")}
        self._own: dict[str, dict[str, Any]] = {
            "vae": {"normalisation_count": 32, "output_dir": str(root / "vae")},
            "text-to-image": {
                "output_dir": str(root / "t2i"),
                "vae": final["vae"] + "/vae",
                "tokenizer_captions": 100,
            },
            "language-model": {"output_dir": str(root / "lm"), "tokenizer_captions": 100},
            "stage1": {"output_dir": str(root / "s1"), "decoder": final["t2i"]},
            "stage2": {
                "output_dir": str(root / "s2"),
                "stage1": final["s1"],
                "language_model": final["lm"] + "/language_model",
                "max_tokens": 96,
            },
            "inspector": {"output_dir": str(root / "inspector")},
        }

    def config(self, stage: str, **changes: Any) -> Path:
        """The YAML file of a stage; `changes` make another file."""
        data = {**self._common, **self._own[stage], **changes}
        if stage == "stage2" and not data.get("fresh_encoder"):
            data.pop("model")
        path = self.root / f"{stage}-{abs(hash(repr(sorted(changes.items()))))}.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    def run(self, stage: str, **changes: Any) -> Path:
        """Train; returns the exported folder."""
        return train(build_stage(stage, self.config(stage, **changes)))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Every stage of the mini, trained for two steps at tiny size.

    Tests in several processes use it at once: each writes to folders that no other names.
    """
    return Workshop(shared_folder(tmp_path_factory, "workshop", run_stages))


def run_stages(root: Path) -> None:
    shop = Workshop(root)
    for stage in ("vae", "text-to-image", "language-model", "stage1", "stage2"):
        shop.run(stage)
