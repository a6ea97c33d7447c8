import pytest
import torch

from vlv.pipeline import VLV

TEXTS = ["a small red cube", "the light comes from the right. " * 30, ""]


def test_token_embeddings_as_z_give_the_library_s_c(model: VLV) -> None:
    tower = model.text_tower
    z, ids = tower.token_embeddings(TEXTS)
    assert z.shape == (3, 77, 16)
    expected = tower.clip(ids).last_hidden_state
    assert torch.allclose(tower(z).tokens, expected, atol=1e-6)
    assert torch.allclose(tower.encode_text(TEXTS).tokens, expected, atol=1e-6)


def test_any_length_up_to_the_positions_is_accepted(model: VLV) -> None:
    tower = model.text_tower
    z = torch.randn(2, 77, 16)
    full = tower(z).tokens
    assert full.shape == (2, 77, 16)
    assert torch.allclose(tower(z[:, :6]).tokens, full[:, :6], atol=1e-5)  # the mask is causal
    with pytest.raises(ValueError, match="max_position_embeddings"):
        tower(torch.randn(1, 78, 16))


def test_positions_are_added(model: VLV) -> None:
    z = torch.randn(1, 1, 16).expand(1, 5, 16)
    c = model.text_tower(z).tokens
    assert (c[0, 0] - c[0, 1]).abs().max() > 1e-3


def test_the_unconditional_context_is_the_empty_text_s(model: VLV) -> None:
    tower = model.text_tower
    context = tower.unconditional(4, 6).tokens
    assert context.shape == (4, 6, 16)
    expected = tower.clip(tower.tokenise([""])).last_hidden_state[:, :6]
    assert torch.allclose(context, expected.expand(4, -1, -1), atol=1e-6)


def test_gradients_pass_through_the_frozen_tower(model: VLV) -> None:
    model.text_tower.requires_grad_(False)
    z = torch.randn(1, 6, 16, requires_grad=True)
    model.text_tower(z).tokens[:, -1].sum().backward()
    assert z.grad is not None
    assert (z.grad[0].abs().amax(-1) > 0).all()
