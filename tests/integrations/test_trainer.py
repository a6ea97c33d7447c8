"""A `Trainer` of transformers takes the steps that it says."""

from pathlib import Path

import pytest
import torch
from tests.tiny import CAPTIONS, plain, tiny_model_dir
from torch import Tensor
from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments

__all__ = ["tiny_model_dir"]


def test_accumulated_gradients_are_those_of_the_whole_batch(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    def step(batch: int, accumulated: int) -> tuple[dict[str, Tensor], float, float]:
        torch.manual_seed(0)
        model = AutoModel.from_pretrained(tiny_model_dir)
        processor = AutoProcessor.from_pretrained(tiny_model_dir)
        colors = [*CAPTIONS, "red"]
        ids, lengths = model.vlv.caption_decoder.tokenise([CAPTIONS[one] for one in colors])
        labels = ids.masked_fill(torch.arange(ids.shape[1]) >= lengths[:, None], -100)
        samples = [
            {"pixel_values": processor(plain(color))["pixel_values"][0], "labels": row}
            for color, row in zip(["blue", "blue", "red", "white"], labels, strict=True)
        ]
        arguments = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
            optim="sgd",
            learning_rate=0.01,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=samples)
        trainer.train()
        loss, norm = (trainer.state.log_history[0][name] for name in ("loss", "grad_norm"))
        return model.state_dict(), loss, norm

    whole, loss, _ = step(4, 1)
    parts, mean, _ = step(1, 4)
    assert mean == pytest.approx(loss, rel=1e-3)
    before = AutoModel.from_pretrained(tiny_model_dir).state_dict()
    assert any((whole[name] - before[name]).abs().max() > 1e-3 for name in whole)
    for name, weight in whole.items():
        assert torch.allclose(weight, parts[name], atol=1e-5), name
