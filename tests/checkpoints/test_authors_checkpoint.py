"""The authors' checkpoint becomes a model folder that computes what the checkpoint computes."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.checkpoints.authors_layout import (
    QUERIES,
    QWEN,
    STORED,
    Parts,
    State,
    authors_state,
    base_parts,
    convert,
    florence_tokenizer,
    qwen_tokenizer,
    write_shards,
)
from tests.checkpoints.authors_layout import (
    write_safetensors as store,
)
from tests.checkpoints.authors_reference import AuthorsModel
from torch import Tensor
from transformers import GenerationConfig

from vlv.checkpoints.authors.export import export_authors
from vlv.errors import CheckpointError
from vlv.models.conditioning import Conditioning
from vlv.pipeline import VLV

END = qwen_tokenizer.eos_token_id
STEPS = 20
# Its captions differ, and end by themselves, at different lengths.
SEED = 14
DECODER = {"vae", "unet", "scheduler"}


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Normalised pixels whose maps do not fill the attention windows."""
    return torch.randn(6, 3, 40, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def stage_1() -> State:
    return authors_state(SEED, 1)


@pytest.fixture(scope="module")
def stage_2() -> State:
    return authors_state(SEED, 2)


@pytest.fixture(scope="module")
def whole() -> State:
    """Stage 2 with VAE and U-Net."""
    return authors_state(SEED, 2, with_decoder=True)


def assert_same_z_and_c(model: VLV, state: State, pixels: Tensor, act: str = "gelu") -> Tensor:
    """The common part of both stages; c is returned."""
    reference = AuthorsModel(state, act)
    with torch.no_grad():
        z, c = model.encoder(pixels), model.condition(model.encoder(pixels)).tokens
        expected = reference.z(pixels)
        torch.testing.assert_close(z, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(c, reference.c(expected), atol=1e-5, rtol=0)
    # Far above the tolerance, so that the agreement says something.
    assert z.shape == (len(pixels), QUERIES, 16)
    assert z.std() > 0.1
    assert (z[0] - z[1]).abs().max() > 0.01
    return c


def assert_same_captions(model: VLV, state: State, c: Tensor) -> None:
    """Teacher-forced logits, and tokens by greedy and by beam search."""
    reference, caption_decoder = AuthorsModel(state), model.caption_decoder
    ids = torch.arange(3, 3 + 5 * len(c)).view(len(c), 5)
    with torch.no_grad():
        e = caption_decoder.psi(c)
        inputs = torch.cat([e, caption_decoder.lm.get_input_embeddings()(ids)], dim=1)
        logits = caption_decoder.lm(inputs_embeds=inputs).logits[:, QUERIES - 1 :]
        # Of float32 sums in another order: relative too, since a head may be of any size.
        torch.testing.assert_close(logits, reference.logits(c, ids), atol=1e-5, rtol=1e-5)
        for beams in (1, 4):
            expected = reference.greedy(c, STEPS) if beams == 1 else reference.beams(c, STEPS)
            made = caption_decoder.generate(c, num_beams=beams, max_new_tokens=STEPS)
            assert [caption.ended for caption in made] == [END in row for row in expected]
            texts = [qwen_tokenizer.decode(row, skip_special_tokens=True) for row in expected]
            assert [caption.text for caption in made] == [text.strip() for text in texts]


def assert_same_loss(model: VLV, state: State, c: Tensor) -> None:
    """Latents, and the denoising loss with its noise schedule."""
    reference = AuthorsModel(state)
    generator = torch.Generator().manual_seed(3)
    pictures = 2 * torch.rand(len(c), 3, 32, 32, generator=generator) - 1
    noise = torch.randn(len(c), 4, 4, 4, generator=generator)
    timesteps = torch.linspace(3, 998, len(c)).long()
    with torch.no_grad():
        latents = model.decoder.encode_images(pictures)
        torch.testing.assert_close(latents, reference.latents(pictures), atol=1e-5, rtol=0)
        loss = model.decoder.denoising_loss(latents, Conditioning(c), noise, timesteps)
        expected = reference.denoising_loss(latents, c, noise, timesteps)
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
        other = reference.denoising_loss(latents, c.flip(0), noise, timesteps)
        assert (loss - other).abs().max() > 1e-3


def test_stage_2_computes_the_same(
    stage_2: State, parts: Parts, pixels: Tensor, tmp_path: Path
) -> None:
    report = convert(store(stage_2, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    model = VLV.from_pretrained(tmp_path / "model")
    assert report.stage == 2
    assert report.components == model.manifest.components
    assert set(report.components) == {"encoder", "text_tower", "caption_decoder"}
    assert_same_captions(model, stage_2, assert_same_z_and_c(model, stage_2, pixels))
    with pytest.raises(CheckpointError, match="has no vae"):
        _ = model.decoder


def test_stage_2_may_hold_vae_and_unet(
    whole: State, parts: Parts, pixels: Tensor, tmp_path: Path
) -> None:
    report = convert(store(whole, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    model = VLV.from_pretrained(tmp_path / "model")
    assert set(report.components) == {"encoder", "text_tower", "caption_decoder"} | DECODER
    c = assert_same_z_and_c(model, whole, pixels)
    assert_same_captions(model, whole, c)
    assert_same_loss(model, whole, c)


def test_stage_1_computes_the_same(
    stage_1: State, parts: Parts, pixels: Tensor, tmp_path: Path
) -> None:
    report = convert(store(stage_1, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    model = VLV.from_pretrained(tmp_path / "model")
    assert report.stage == 1
    assert report.components == model.manifest.components
    assert set(report.components) == {"encoder", "text_tower"} | DECODER
    assert_same_loss(model, stage_1, assert_same_z_and_c(model, stage_1, pixels))
    with pytest.raises(CheckpointError, match="has no caption_decoder"):
        _ = model.caption_decoder


def test_the_form_of_the_file_does_not_matter(stage_2: State, parts: Parts, tmp_path: Path) -> None:
    contents = []
    for i, store_as in enumerate(STORED.values()):
        convert(store_as(stage_2, tmp_path / f"{i}"), tmp_path / f"model {i}", parts)
        contents.append(
            {
                str(file.relative_to(tmp_path / f"model {i}")): file.read_bytes()
                for file in sorted((tmp_path / f"model {i}").rglob("*"))
                if file.is_file() and file.name != "vlv.json"
            }
        )
    assert len(contents) == len(STORED) > 8
    assert "encoder/model.safetensors" in contents[0]
    for form, content in zip(STORED, contents, strict=True):
        assert content == contents[0], form


def test_a_checkpoint_of_their_training_is_taken_as_it_is(
    stage_1: State, parts: Parts, tmp_path: Path
) -> None:
    convert(STORED["safetensors"](stage_1, tmp_path / "plain"), tmp_path / "model", parts)
    report = convert(STORED["training state"](stage_1, tmp_path / "x"), tmp_path / "same", parts)
    assert report.stage == 1
    assert_same_tensors(tmp_path / "model", tmp_path / "same")


def test_a_model_in_many_shards_computes_the_same(
    whole: State, parts: Parts, pixels: Tensor, tmp_path: Path
) -> None:
    source = write_shards(whole, tmp_path / "source", "model", "safetensors", count=7)
    convert(source, tmp_path / "model", parts, max_shard_bytes=20_000)
    assert len(list((tmp_path / "model").rglob("*.safetensors"))) > 12
    model = VLV.from_pretrained(tmp_path / "model")
    c = assert_same_z_and_c(model, whole, pixels)
    assert_same_captions(model, whole, c)
    assert_same_loss(model, whole, c)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("seed", [4, SEED, 18])
def test_beam_search_finds_the_same_tokens(
    seed: int, early_stopping: bool, parts: Parts, pixels: Tensor, tmp_path: Path
) -> None:
    state = authors_state(seed, 2)
    convert(store(state, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    caption_decoder, reference = (
        VLV.from_pretrained(tmp_path / "model").caption_decoder,
        AuthorsModel(state),
    )
    with torch.no_grad():
        c = reference.c(reference.z(pixels))
        expected = reference.beams(c, STEPS, early_stopping)
        e = caption_decoder.psi(c)
        rows = caption_decoder.lm.generate(
            inputs_embeds=e,
            attention_mask=torch.ones(e.shape[:2], dtype=torch.long),
            generation_config=GenerationConfig(
                num_beams=4,
                max_new_tokens=STEPS,
                early_stopping=early_stopping,
                eos_token_id=END,
                pad_token_id=END,
            ),
        )
        other = reference.beams(c, STEPS, not early_stopping)
    longest = max(len(row) for row in expected)
    assert rows.tolist() == [row + [END] * (longest - len(row)) for row in expected]
    # Hypotheses end at different lengths, and early stopping makes a difference.
    assert expected != other
    assert len({len(row) for row in expected}) > 1


def test_the_text_tower_takes_its_activation_from_its_config(
    stage_1: State, pixels: Tensor, tmp_path: Path
) -> None:
    parts = base_parts(tmp_path / "parts", hidden_act="quick_gelu")
    convert(store(stage_1, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    model = VLV.from_pretrained(tmp_path / "model")
    assert_same_z_and_c(model, stage_1, pixels, "quick_gelu")


@pytest.mark.parametrize(("positions", "padding"), [(4 * 96, 40), (90, 0)])
def test_sizes_of_tables_are_the_checkpoint_s(
    positions: int, padding: int, parts: Parts, pixels: Tensor, tmp_path: Path
) -> None:
    state = authors_state(SEED, 2, positions=positions, vocab_padding=padding)
    convert(store(state, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    model = VLV.from_pretrained(tmp_path / "model")
    text, lm = model.encoder.florence.config.text_config, model.caption_decoder.lm.config
    assert text.max_position_embeddings == positions
    assert text.vocab_size == len(florence_tokenizer) + padding
    assert lm.vocab_size == len(qwen_tokenizer) + padding
    assert_same_captions(model, state, assert_same_z_and_c(model, state, pixels))


@pytest.mark.parametrize("longer", ["encoder", "decoder"])
def test_encoder_and_decoder_may_have_tables_of_other_lengths(
    longer: str, stage_2: State, parts: Parts, pixels: Tensor, tmp_path: Path
) -> None:
    name = f"VLV_model.model.language_model.model.{longer}.embed_positions.weight"
    more = torch.randn(300, 24, generator=torch.Generator().manual_seed(4))
    state = {**stage_2, name: torch.cat([stage_2[name], more])}
    convert(store(state, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    model = VLV.from_pretrained(tmp_path / "model")
    assert_same_captions(model, state, assert_same_z_and_c(model, state, pixels))
    export_authors(tmp_path / "model", tmp_path / "back.safetensors")
    again = load_file(tmp_path / "back.safetensors")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in state.items())


def test_a_language_model_may_have_a_head_of_its_own(
    stage_2: State, pixels: Tensor, tmp_path: Path
) -> None:
    parts = base_parts(tmp_path / "parts", qwen={**QWEN, "tie_word_embeddings": False})
    state = {**stage_2, "qwen2_model.lm_head.weight": stage_2["qwen2_model.lm_head.weight"] * 2}
    convert(store(state, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    model = VLV.from_pretrained(tmp_path / "model")
    assert_same_captions(model, state, assert_same_z_and_c(model, state, pixels))


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16])
def test_stored_dtypes_are_the_source_s_unless_asked(
    dtype: torch.dtype | None, whole: State, parts: Parts, pixels: Tensor, tmp_path: Path
) -> None:
    state = {
        name: tensor if ".vae." in name else tensor.bfloat16() for name, tensor in whole.items()
    }
    convert(store(state, tmp_path / "model.safetensors"), tmp_path / "model", parts, dtype=dtype)
    for file, tensors in stored_tensors(tmp_path / "model").items():
        of_source = torch.float32 if file.startswith("vae/") else torch.bfloat16
        assert {tensor.dtype for tensor in tensors.values()} == {dtype or of_source}
    if dtype != torch.float16:
        assert_same_z_and_c(VLV.from_pretrained(tmp_path / "model"), state, pixels)


@pytest.mark.parametrize(("stage", "prefix"), [(1, "module."), (2, "")])
def test_every_tensor_is_used_or_named_with_a_reason(
    stage: int, prefix: str, parts: Parts, tmp_path: Path
) -> None:
    state = authors_state(SEED, stage, with_decoder=True)
    stored = {prefix + name: tensor for name, tensor in state.items()}
    report = convert(store(stored, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    made = [
        digest(tensor)
        for tensors in stored_tensors(tmp_path / "model").values()
        for tensor in tensors.values()
    ]
    found = {name: digest(tensor) in made for name, tensor in state.items()}
    assert set(report.unused) <= set(state)
    assert all(report.unused.values())
    assert [name for name in state if not found[name] and name not in report.unused] == []
    # Of what is left out, all are copies but the bias of the head that VLV does not use.
    vlv = "VLV_model." if stage == 2 else ""
    left_out = [name for name in report.unused if not found[name]]
    assert left_out == [f"{vlv}model.language_model.final_logits_bias"]
    # And nothing of the model comes from elsewhere or is stored twice.
    assert set(made) <= {digest(tensor) for tensor in state.values()}
    assert len(made) == len(set(made))


FLORENCE = "VLV_model.model.language_model."
# Tensors that the authors' modules share, and so their checkpoint stores again.
COPIES = {
    f"{FLORENCE}model.shared.weight": (
        f"{FLORENCE}model.encoder.embed_tokens.weight",
        f"{FLORENCE}model.decoder.embed_tokens.weight",
        f"{FLORENCE}lm_head.weight",
    ),
    "qwen2_model.model.embed_tokens.weight": ("qwen2_model.lm_head.weight",),
}
# What older libraries stored and newer ones compute.
COMPUTED = {
    "VLV_model.text_encoder.text_model.embeddings.position_ids": torch.arange(77)[None],
    "qwen2_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.tensor([1.0, 0.001]),
}


def test_what_vlv_does_not_compute_with_may_be_anything(
    stage_2: State, parts: Parts, pixels: Tensor, tmp_path: Path
) -> None:
    """The authors freeze a copy of Florence-2's head, and one of its switches copies the decoder's
    words, while the words themselves are trained.
    """
    state = {**stage_2, **COMPUTED}
    for i, copy in enumerate(COPIES[f"{FLORENCE}model.shared.weight"]):
        state[copy] = state[copy] + i + 1
    report = convert(store(state, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    assert set(report.unused) >= {*COPIES[f"{FLORENCE}model.shared.weight"], *COMPUTED}
    assert_same_z_and_c(VLV.from_pretrained(tmp_path / "model"), state, pixels)
    # It is kept for the way back.
    assert_same_state(state, exported(tmp_path / "model", tmp_path / "x.safetensors"))


def test_copies_may_be_absent(stage_2: State, parts: Parts, pixels: Tensor, tmp_path: Path) -> None:
    """Writers of safetensors store a shared tensor once."""
    copies = [copy for several in COPIES.values() for copy in several]
    once = {name: tensor for name, tensor in stage_2.items() if name not in copies}
    assert len(once) == len(stage_2) - 4
    convert(store(once, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    model = VLV.from_pretrained(tmp_path / "model")
    assert_same_captions(model, stage_2, assert_same_z_and_c(model, stage_2, pixels))
    assert_same_state(once, exported(tmp_path / "model", tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        # Unknown.
        ("VLV_model.model.vision_tower.convs.5.proj.weight", "added"),
        ("VLV_model.refiner.weight", "added"),
        ("qwen2_model.model.layers.7.mlp.up_proj.weight", "added"),
        ("mlp.layers.4.bias", "added"),
        # Missing.
        ("VLV_model.query_embed", "removed"),
        ("VLV_model.model.image_projection", "removed"),
        ("VLV_model.model.vision_tower.blocks.1.1.channel_block.ffn.norm.bias", "removed"),
        (f"{FLORENCE}model.shared.weight", "removed"),
        ("VLV_model.text_encoder.text_model.final_layer_norm.weight", "removed"),
        ("VLV_model.unet.conv_in.bias", "removed"),
        ("qwen2_model.model.embed_tokens.weight", "removed"),
        ("mlp.layers.2.bias", "removed"),
        # Misshapen.
        ("VLV_model.model.image_projection", "turned"),
        ("VLV_model.query_embed", "turned"),
        ("VLV_model.language_proj.2.weight", "turned"),
        ("VLV_model.text_encoder.text_model.encoder.layers.0.mlp.fc1.weight", "turned"),
        ("VLV_model.vae.quant_conv.bias", "cut"),
        ("qwen2_model.model.layers.1.self_attn.k_proj.weight", "turned"),
        ("mlp.layers.0.bias", "cut"),
        # Not the copy that it should be.
        ("qwen2_model.lm_head.weight", "shifted"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    name: str, change: str, whole: State, parts: Parts, tmp_path: Path
) -> None:
    state = dict(whole)
    if change == "added":
        state[name] = torch.ones(3)
    elif change == "removed":
        del state[name]
        for copy in COPIES.get(name, ()):
            del state[copy]
    elif change == "turned":
        state[name] = state[name].mT.contiguous()
    elif change == "cut":
        state[name] = state[name][:-1].clone()
    else:
        state[name] = state[name] + 1e-3
    with pytest.raises(CheckpointError) as caught:
        convert(store(state, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    assert name in str(caught.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(
    ("file", "prefix", "with_decoder"), [("x.safetensors", "", False), ("x.pt", "module.", True)]
)
def test_there_and_back_is_the_same_to_the_bit(
    stage: int, file: str, prefix: str, with_decoder: bool, parts: Parts, tmp_path: Path
) -> None:
    state = authors_state(SEED, stage, with_decoder=with_decoder, vocab_padding=3, prefix=prefix)
    convert(store(state, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    back = exported(tmp_path / "model", tmp_path / file, stage=stage, prefix=prefix)
    assert_same_state(state, back)
    convert(tmp_path / file, tmp_path / "again", parts)
    assert_same_tensors(tmp_path / "model", tmp_path / "again")


def test_an_export_is_of_the_model_s_own_stage(
    stage_1: State, whole: State, parts: Parts, tmp_path: Path
) -> None:
    for stage, state in ((1, stage_1), (2, whole)):
        model = tmp_path / f"model {stage}"
        convert(store(state, tmp_path / "model.safetensors"), model, parts)
        assert_same_state(state, exported(model, tmp_path / "x.safetensors"))
    # What a model of stage 2 has of stage 1 can be exported, too.
    of_stage_1 = {
        name.removeprefix("VLV_model."): tensor
        for name, tensor in whole.items()
        if name.startswith("VLV_model.")
    }
    assert_same_state(of_stage_1, exported(model, tmp_path / "x.safetensors", stage=1))
    with pytest.raises(CheckpointError, match="caption_decoder"):
        export_authors(tmp_path / "model 1", tmp_path / "y.safetensors", stage=2)


@pytest.mark.parametrize("made", ["saved again", "put together"])
def test_a_model_that_was_no_checkpoint_of_theirs_is_exported(
    made: str, whole: State, parts: Parts, tmp_path: Path
) -> None:
    convert(store(whole, tmp_path / "model.safetensors"), tmp_path / "model", parts)
    model = VLV.from_pretrained(tmp_path / "model")
    if made == "put together":
        model = VLV.from_boxes(
            encoder=model.encoder,
            text_tower=model.text_tower,
            decoder=model.decoder,
            caption_decoder=model.caption_decoder,
        )
    model.save_pretrained(tmp_path / "ours")
    assert_same_state(whole, exported(tmp_path / "ours", tmp_path / "x.safetensors"))
    convert(tmp_path / "x.safetensors", tmp_path / "again", parts)
    assert_same_tensors(tmp_path / "ours", tmp_path / "again")


def test_a_missing_part_is_named(stage_1: State, parts: Parts, tmp_path: Path) -> None:
    source = store(stage_1, tmp_path / "model.safetensors")
    encoder, _, language_model = parts
    with pytest.raises(CheckpointError, match=r"text_encoder|nowhere"):
        convert(source, tmp_path / "model", (encoder, tmp_path / "nowhere", language_model))
    assert not (tmp_path / "model").exists()


def stored_tensors(folder: Path) -> dict[str, State]:
    """All tensors of a model folder's components, by file."""
    files = sorted(folder.glob("*/**/*.safetensors"))
    return {str(file.relative_to(folder)): load_file(file) for file in files}


def exported(model: Path, file: Path, **options: Any) -> State:
    """What `export_authors` writes into a file."""
    export_authors(model, file, **options)
    return torch.load(file, weights_only=True) if file.suffix == ".pt" else load_file(file)


def assert_same_state(expected: State, found: State) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def assert_same_tensors(model: Path, other: Path) -> None:
    first, second = stored_tensors(model), stored_tensors(other)
    assert first.keys() == second.keys()
    for file in first:
        assert_same_state(first[file], second[file])


def digest(tensor: Tensor) -> str:
    """The content of a tensor; a matrix and its transpose have the same."""
    sides = [tensor.mT, tensor] if tensor.dim() == 2 else [tensor]
    return min(
        hashlib.sha256(side.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        for side in sides
    )
