"""What a step of stage 1 and stage 2 moves, and what it leaves as it was to the bit."""

import torch
from PIL import Image
from torch import nn

from vlv.pipeline import VLV


def _bits(*modules: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for module in modules for value in module.state_dict().values()]


def _same(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_stage_1_trains_the_encoder_through_the_frozen_decoder(
    model: VLV, images: list[Image.Image]
) -> None:
    encoder, tower, decoder = model.encoder.train(), model.text_tower, model.decoder
    frozen = (tower, decoder.vae, decoder.unet)
    for module in frozen:
        module.requires_grad_(False)
    before = _bits(*frozen)
    trained_before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, weight_decay=0.0)
    pixels = encoder.preprocess(images)
    latents, noise = torch.randn(2, 3, 4, 4, 4)
    c = tower(encoder(pixels))
    decoder.denoising_loss(latents, c, noise, torch.tensor([10, 500, 900])).mean().backward()

    parts = encoder.parts()
    assert encoder.queries.grad is not None
    assert (encoder.queries.grad.abs().amax(-1) > 0).all()
    for module in (encoder.phi, encoder.florence.vision_tower, encoder.florence.language_model):
        for parameter in module.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
        assert any((parameter.grad != 0).any() for parameter in module.parameters())
    assert all(parameter.grad is not None for part in parts.values() for parameter in part)

    optimizer.step()
    assert _same(before, _bits(*frozen))
    unmoved = [n for n, p in encoder.named_parameters() if torch.equal(p, trained_before[n])]
    assert unmoved == []


def test_stage_2_trains_psi_and_the_language_model_alone(
    model: VLV, images: list[Image.Image]
) -> None:
    model.encoder.requires_grad_(False)
    model.text_tower.requires_grad_(False)
    frozen = (model.encoder, model.text_tower)
    before, trained = _bits(*frozen), _bits(model.caption_decoder)
    optimizer = torch.optim.AdamW(model.caption_decoder.parameters(), lr=1e-3)
    c = model.read(model.encode(images))
    ids, lengths = model.caption_decoder.tokenise(["A red cube.", "A cone.", "Two spheres."])
    model.caption_decoder(c, ids, lengths).backward()
    optimizer.step()
    assert _same(before, _bits(*frozen))
    after = _bits(model.caption_decoder)
    assert not any(torch.equal(a, b) for a, b in zip(trained, after, strict=True))


def test_the_captioner_s_parts_hold_every_parameter_once(model: VLV) -> None:
    parts = model.caption_decoder.parts()
    assert set(parts) == {"psi", "language_model"}
    ids = [id(parameter) for part in parts.values() for parameter in part]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.caption_decoder.parameters())
