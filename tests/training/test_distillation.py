"""Distillation from captions in stage 2: under z the decoder goes on as under the caption."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.conftest import Workshop
from tests.training.test_texts import SCENES, batch_of, saved_family

from vlv.errors import ConfigError
from vlv.training.loop import train
from vlv.training.objectives.denoising import batch_latents
from vlv.training.objectives.distillation import distillation_loss
from vlv.training.registry import build_stage
from vlv.training.samples.distillation import DistillationDraws

DRAWN = {"distillation_u", "guess_u", "guess_noise", "distillation_noise", "prompt_ids"}


def stage_of(workshop: Workshop, weight: float = 1.0, **changes: Any) -> Any:
    return build_stage("stage2", workshop.config("stage2", distillation_weight=weight, **changes))


def test_levels_are_those_of_drawing_and_a_guess_is_noisier(workshop: Workshop) -> None:
    draws: DistillationDraws = stage_of(workshop).samples._distillation
    items = [draws.at(position, "a red cube") for position in range(500)]
    low = torch.stack([item["distillation_u"] for item in items])
    gap = torch.stack([item["guess_u"] for item in items]) - low
    assert 0.08 <= low.min() < 0.1 and 0.53 < low.max() <= 0.55
    assert 0.15 - 1e-6 <= gap.min() < 0.17 and 0.45 < gap.max() <= 0.5 + 1e-6
    assert abs(torch.corrcoef(torch.stack([low, gap]))[0, 1]) < 0.15
    # Two noises, and both are new.
    noises = torch.stack([item["guess_noise"] for item in items[:20]])
    others = torch.stack([item["distillation_noise"] for item in items[:20]])
    assert noises.std() == pytest.approx(1, abs=0.05)
    assert abs(float((noises * others).mean())) < 0.1
    copy = pickle.loads(pickle.dumps(draws))
    for position in (7, 2**40, 0):
        there, back = draws.at(position, "a cone"), copy.at(position, "a cone")
        assert all(torch.equal(there[name], back[name]) for name in DRAWN)


def test_the_caption_is_the_picture_s_even_where_a_text_is_written(workshop: Workshop) -> None:
    plain: Any = build_stage("stage2", workshop.config("stage2"))
    stage = stage_of(workshop, texts=[SCENES], text_share=0.5)
    tokenizer = stage.objective.text_tower.tokenizer
    written = stage.objective.caption_decoder.tokenizer
    for at in range(12):
        item, other = stage.samples.item(at, at), plain.samples.item(at, at)
        assert item.keys() - other.keys() == DRAWN | {"of_text", "text_ids"}
        prompt = tokenizer.decode(item["prompt_ids"], skip_special_tokens=True)
        caption = written.decode(other["caption_ids"][: other["caption_length"]])
        same = caption.replace(written.eos_token, "").lower().replace(" ", "")
        assert prompt.replace(" ", "") == same
        # The denoising loss has the noise that it had.
        assert torch.equal(item["noise"], other["noise"]) and torch.equal(item["u"], other["u"])


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_loss_is_that_of_its_definition(workshop: Workshop, kind: str) -> None:
    stage = stage_of(workshop)
    objective, batch = stage.objective.eval(), batch_of(stage, 5)
    decoder = objective.decoder
    decoder.scheduler.register_to_config(prediction_type=kind)
    alphas = decoder.scheduler.alphas_cumprod.double()
    with torch.no_grad():
        c = objective.text_tower(objective.embeddings(batch))
        caption = objective.text_tower.encode_ids(batch["prompt_ids"])
        found = distillation_loss(decoder, batch, batch["latents"][:, 0], c, caption)
        expected = []
        for row in range(5):
            high, low = (int(batch[name][row] * 1000) for name in ("guess_u", "distillation_u"))

            def predict(x: torch.Tensor, t: int, prompt: Any, row: int = row) -> torch.Tensor:
                return decoder.unet(
                    x.float()[None], t, encoder_hidden_states=prompt.tokens[row : row + 1]
                ).sample[0]

            a, s = alphas[high].sqrt(), (1 - alphas[high]).sqrt()
            noisy = a * batch["latents"][row, 0] + s * batch["guess_noise"][row]
            said = predict(noisy, high, c)
            guess = {
                "epsilon": (noisy - s * said) / a,
                "sample": said,
                "v_prediction": a * noisy - s * said,
            }[kind]
            a, s = alphas[low].sqrt(), (1 - alphas[low]).sqrt()
            noisy = a * guess + s * batch["distillation_noise"][row]
            difference = predict(noisy, low, c) - predict(noisy, low, caption)
            expected.append(float(difference.square().mean()))
    assert float(found) == pytest.approx(sum(expected) / 5, rel=1e-3)


def test_nothing_is_left_to_distil_from_the_caption_itself(workshop: Workshop) -> None:
    stage = stage_of(workshop)
    objective, batch = stage.objective.eval(), batch_of(stage, 4)
    with torch.no_grad():
        caption = objective.text_tower.encode_ids(batch["prompt_ids"])
        latents = batch["latents"][:, 0]
        same = distillation_loss(objective.decoder, batch, latents, caption, caption)
        other = distillation_loss(objective.decoder, batch, latents, caption[[1, 2, 3, 0]], caption)
    assert float(same) == 0 < float(other)


def test_the_gradient_comes_through_the_second_prediction_alone(workshop: Workshop) -> None:
    stage = stage_of(workshop)
    objective, batch = stage.objective.eval(), batch_of(stage, 3)
    tower, decoder = objective.text_tower, objective.decoder
    latents, process = batch["latents"][:, 0], decoder.noise_process
    z = objective.embeddings(batch).detach().requires_grad_()
    caption = tower.encode_ids(batch["prompt_ids"])
    distillation_loss(decoder, batch, latents, tower(z), caption).backward()
    with torch.no_grad():
        c, high = tower(z), process.timesteps(batch["guess_u"])
        low = process.timesteps(batch["distillation_u"])
        noisy = process.noisy(latents, batch["guess_noise"], high)
        guess = process.denoised(noisy, decoder.predict(noisy, high, c), high)
        noisy = process.noisy(guess, batch["distillation_noise"], low)
        target = decoder.predict(noisy, low, caption)
    again = z.detach().requires_grad_()
    (decoder.predict(noisy, low, tower(again)) - target).square().mean().backward()
    assert z.grad is not None and again.grad is not None
    assert float(z.grad.abs().max()) > 0
    torch.testing.assert_close(z.grad, again.grad)


@pytest.mark.parametrize(
    ("family", "query_drop"),
    [("stable-diffusion", "tail"), ("sd3", None), ("flux", None), ("sana", "tail")],
)
def test_every_family_distils(
    workshop: Workshop, tmp_path: Path, family: str, query_drop: str | None
) -> None:
    changes: dict[str, Any] = {} if query_drop is None else {"query_drop": query_drop}
    if family != "stable-diffusion":
        changes["stage1"] = str(saved_family(family, tmp_path))
    stage = stage_of(workshop, 2.0, **changes)
    objective, batch = stage.objective, batch_of(stage, 4)
    objective.train()
    loss, metrics = objective(batch)
    weighted = metrics["caption_loss"] + metrics["denoising_loss"]
    weighted = weighted + 2 * metrics["distillation_loss"]
    assert float(loss.detach()) == pytest.approx(float(weighted), rel=1e-5)
    assert float(metrics["distillation_loss"]) > 0
    loss.backward()
    assert all(p.grad is None for p in objective.decoder.parameters())
    with torch.no_grad():
        first, second = objective.eval().validate(), objective.validate()
    assert first == second and first["distillation_loss"] > 0


def test_pictures_on_disk_are_encoded_once_for_both_losses(
    workshop: Workshop, tmp_path: Path
) -> None:
    stage = stage_of(workshop)
    objective, batch = stage.objective.eval(), batch_of(stage, 3)
    del batch["latents"]
    batch["posterior_noise"] = torch.zeros_like(batch["noise"][:, 0])
    encoded = []
    encode = objective.decoder.encode_images

    def counted(*given: Any) -> torch.Tensor:
        encoded.append(encode(*given))
        return encoded[-1]

    objective.decoder.encode_images = counted
    with torch.no_grad():
        from_pictures = objective(batch)[1]
        assert len(encoded) == 1
        batch["latents"] = batch_latents(objective.decoder, batch)
        from_latents = objective(batch)[1]
    assert from_pictures == from_latents


def test_distillation_lowers_its_loss_on_held_out_pictures(
    workshop: Workshop, tmp_path: Path
) -> None:
    """Against the same run without it."""
    lost = {}
    for weight in (0.0, 300.0):
        folder = tmp_path / str(weight)
        config = workshop.config(
            "stage2",
            output_dir=str(folder),
            distillation_weight=weight,
            trainable=["vision", "encoder"],
            max_train_steps=30,
            train_batch_size=8,
            learning_rate=3.0e-3,
            validation_steps=100,
        )
        stage: Any = build_stage("stage2", config)
        train(stage)
        objective = stage.objective.eval()
        objective.distils = True
        with torch.no_grad():
            lost[weight] = objective.validate()["distillation_loss"]
    assert lost[300.0] < 0.9 * lost[0.0], lost


def test_a_run_goes_on_bit_by_bit_and_not_with_another_weight(
    workshop: Workshop, tmp_path: Path
) -> None:
    def run(name: str, steps: int, weight: float = 1.0) -> Path:
        stage = stage_of(
            workshop,
            weight,
            output_dir=str(tmp_path / name),
            lr_scheduler="constant",
            checkpointing_steps=1,
            max_train_steps=steps,
            keep_best="distillation_loss",
            validation_steps=1,
        )
        return train(stage)

    straight, _ = run("straight", 3), run("cut", 1)
    resumed = run("cut", 3)
    for part in ("model", "vlv_head"):
        weights = f"encoder/{part}.safetensors"
        assert load_file(straight / weights).keys() == load_file(resumed / weights).keys()
        assert (straight / weights).read_bytes() == (resumed / weights).read_bytes()
    with pytest.raises(Exception, match="distillation_weight"):
        run("cut", 4, 2.0)


def test_it_needs_the_denoising_loss_and_something_that_learns_to_see(workshop: Workshop) -> None:
    for changes in ({"denoising_weight": 0.0}, {"trainable": ["psi", "language_model"]}):
        with pytest.raises(ConfigError, match="distillation_weight needs the denoising loss"):
            stage_of(workshop, **changes)
    plain = stage_of(workshop, 0.0)
    assert not plain.objective.distils
    assert not DRAWN & plain.samples.item(0, 0).keys()
    with torch.no_grad():
        assert "distillation_loss" not in plain.objective.eval().validate()


def test_captions_that_the_text_encoder_cuts_are_reported(
    workshop: Workshop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for at in range(12):
        Image.new("RGB", (64, 64), (at, 0, 0)).save(images / f"{at:02}.png")
        text = "a red cube " * (40 if at == 11 else 1)
        (images / f"{at:02}.txt").write_text(text)
    data = {"set": str(images), "index_folder": str(tmp_path / "indexes")}
    stage_of(workshop, data=data, validation_count=4, output_dir=str(tmp_path / "run"))
    assert "1 of the 4 held-out captions are longer than the text encoder reads" in caplog.text
    caplog.clear()
    stage_of(workshop, 0.0, data=data, validation_count=4, output_dir=str(tmp_path / "run"))
    assert "text encoder" not in caplog.text
