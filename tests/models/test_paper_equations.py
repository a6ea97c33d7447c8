"""The paper's forward pass written a second time, from functional operations on the weights."""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vlv.models.conditioning import Conditioning
from vlv.pipeline import VLV

Weights = dict[str, Tensor]


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def _norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Softmax attention of (B,N,D) by heads, from matrix products."""

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = split(q), split(k), split(v)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if causal:
        future = torch.ones(scores.shape[-2:]).triu(1).bool()
        scores = scores.masked_fill(future, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _projected(
    w: Weights, name: str, x: Tensor, source: Tensor, heads: int, causal: bool = False
) -> Tensor:
    q = _linear(w, f"{name}.q_proj", x)
    k, v = (_linear(w, f"{name}.{part}", source) for part in ("k_proj", "v_proj"))
    return _linear(w, f"{name}.out_proj", _attend(q, k, v, heads, causal))


def _depthwise(w: Weights, name: str, x: Tensor) -> Tensor:
    weight = w[f"{name}.weight"]
    return x + F.conv2d(x, weight, w[f"{name}.bias"], padding=1, groups=weight.shape[0])


def _window_attention(w: Weights, name: str, x: Tensor, heads: int, window: int) -> Tensor:
    """Attention within squares of a map (B,H,W,C)."""
    height, width = x.shape[1:3]
    rows = []
    for top in range(0, height, window):
        row = []
        for left in range(0, width, window):
            square = x[:, top : top + window, left : left + window]
            q, k, v = _linear(w, f"{name}.qkv", square.flatten(1, 2)).chunk(3, -1)
            row.append(_attend(q, k, v, heads).unflatten(1, square.shape[1:3]))
        rows.append(torch.cat(row, dim=2))
    return _linear(w, f"{name}.proj", torch.cat(rows, dim=1).flatten(1, 2))


def _channel_attention(w: Weights, name: str, x: Tensor, groups: int) -> Tensor:
    """Attention between the channels of (B,N,C), group by group, scaled by tokens."""
    mixed = []
    q, k, v = _linear(w, f"{name}.qkv", x).chunk(3, -1)
    for qg, kg, vg in zip(*(part.chunk(groups, -1) for part in (q, k, v)), strict=True):
        weights = (qg.mT @ kg / x.shape[1] ** 0.5).softmax(-1)
        mixed.append((weights @ vg.mT).mT)
    return _linear(w, f"{name}.proj", torch.cat(mixed, -1))


def _davit(w: Weights, config, x: Tensor) -> Tensor:
    """The visual backbone: image -> map (B,C,h,w)."""
    for stage in range(len(config.embed_dim)):
        conv = f"convs.{stage}"
        if config.patch_prenorm[stage]:
            x = _norm(w, f"{conv}.norm", x.movedim(1, -1)).movedim(-1, 1)
        x = F.conv2d(
            x,
            w[f"{conv}.conv.weight"],
            w[f"{conv}.conv.bias"],
            config.patch_stride[stage],
            config.patch_padding[stage],
        )
        if not config.patch_prenorm[stage]:
            x = _norm(w, f"{conv}.norm", x.movedim(1, -1)).movedim(-1, 1)
        for block in range(config.depths[stage]):
            for kind in ("spatial_block", "channel_block"):
                name = f"blocks.{stage}.{block}.{kind}"
                x = _depthwise(w, f"{name}.conv1", x)
                size = x.shape[2:]
                tokens = x.flatten(2).mT
                normed = _norm(w, f"{name}.norm1", tokens)
                if kind == "spatial_block":
                    mixed = _window_attention(
                        w,
                        f"{name}.window_attn",
                        normed.unflatten(1, size),
                        config.num_heads[stage],
                        config.window_size,
                    )
                else:
                    mixed = _channel_attention(
                        w, f"{name}.channel_attn", normed, config.num_groups[stage]
                    )
                x = (tokens + mixed).mT.unflatten(2, size)
                x = _depthwise(w, f"{name}.conv2", x)
                tokens = x.flatten(2).mT
                hidden = F.gelu(_linear(w, f"{name}.ffn.fc1", _norm(w, f"{name}.norm2", tokens)))
                x = (tokens + _linear(w, f"{name}.ffn.fc2", hidden)).mT.unflatten(2, size)
    return x


def _image_tokens(w: Weights, v: Tensor) -> Tensor:
    """v -> v': positions, the mean token in front, linear projection, LayerNorm (step 1)."""
    height, width = v.shape[2:]
    columns = w["image_position_embed.column_embeddings.weight"][:width]
    rows = w["image_position_embed.row_embeddings.weight"][:height]
    positions = torch.cat(
        [columns.expand(height, -1, -1), rows[:, None].expand(-1, width, -1)], dim=-1
    )
    tokens = v.movedim(1, -1) + positions + w["visual_temporal_embed.pos_idx_to_embed"][0]
    tokens = tokens.flatten(1, 2)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)
    return _norm(w, "image_proj_norm", _linear(w, "image_projection", tokens))


def _feed_forward(w: Weights, name: str, x: Tensor) -> Tensor:
    hidden = _linear(w, f"{name}.fc2", F.gelu(_linear(w, f"{name}.fc1", x)))
    return _norm(w, f"{name}.final_layer_norm", x + hidden)


def _entered(w: Weights, name: str, x: Tensor) -> Tensor:
    """Bart's positions start at row 2 of their table; a LayerNorm follows them."""
    positions = w[f"{name}.embed_positions.weight"][2 : 2 + x.shape[1]]
    return _norm(w, f"{name}.layernorm_embedding", x + positions)


def _enc(w: Weights, config, x: Tensor) -> Tensor:
    """h_E = Enc(X) (step 3)."""
    x = _entered(w, "encoder", x)
    for i in range(config.encoder_layers):
        name = f"encoder.layers.{i}"
        mixed = _projected(w, f"{name}.self_attn", x, x, config.encoder_attention_heads)
        x = _norm(w, f"{name}.self_attn_layer_norm", x + mixed)
        x = _feed_forward(w, name, x)
    return x


def _dec(w: Weights, config, q: Tensor, h_e: Tensor) -> Tensor:
    """h = Dec(q, h_E) (step 4)."""
    x = _entered(w, "decoder", q)
    for i in range(config.decoder_layers):
        name = f"decoder.layers.{i}"
        heads = config.decoder_attention_heads
        mixed = _projected(w, f"{name}.self_attn", x, x, heads, causal=True)
        x = _norm(w, f"{name}.self_attn_layer_norm", x + mixed)
        mixed = _projected(w, f"{name}.encoder_attn", x, h_e, heads)
        x = _norm(w, f"{name}.encoder_attn_layer_norm", x + mixed)
        x = _feed_forward(w, name, x)
    return x


def _mlp(w: Weights, x: Tensor) -> Tensor:
    return _linear(w, "2", F.gelu(_linear(w, "0", x)))


def _text_encoder(w: Weights, config, z: Tensor) -> Tensor:
    """c = T(z), CLIP's text encoder entered at its token embeddings (step 5)."""
    x = z + w["embeddings.position_embedding.weight"][: z.shape[1]]
    for i in range(config.num_hidden_layers):
        name = f"encoder.layers.{i}"
        normed = _norm(w, f"{name}.layer_norm1", x)
        x = x + _projected(
            w, f"{name}.self_attn", normed, normed, config.num_attention_heads, causal=True
        )
        hidden = _linear(w, f"{name}.mlp.fc1", _norm(w, f"{name}.layer_norm2", x))
        x = x + _linear(w, f"{name}.mlp.fc2", hidden * torch.sigmoid(1.702 * hidden))
    return _norm(w, "final_layer_norm", x)


def test_the_chain_from_image_to_loss_is_the_paper_s(model: VLV, images: list[Image.Image]) -> None:
    encoder, tower, decoder = model.encoder, model.text_tower, model.decoder
    florence = encoder.florence
    text_config = florence.config.text_config
    pixels = encoder.preprocess(images)
    with torch.no_grad():
        v = _davit(florence.vision_tower.state_dict(), florence.config.vision_config, pixels)
        v_prime = _image_tokens(florence.multi_modal_projector.state_dict(), v)
        bart = florence.language_model.state_dict()
        t_prompt = bart["shared.weight"][encoder.prompt_ids].expand(3, -1, -1)
        h_e = _enc(bart, text_config, torch.cat([v_prime, t_prompt], dim=1))
        h = _dec(bart, text_config, encoder.queries.expand(3, -1, -1), h_e)
        z = _mlp(encoder.phi.state_dict(), h)
        c = _text_encoder(tower.clip.state_dict(), tower.clip.config, z)
        e = _mlp(model.caption_decoder.psi.state_dict(), c)

        z_0, noise = torch.randn(2, 3, 4, 4, 4)
        timesteps = torch.tensor([3, 400, 998])
        alpha = decoder.scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - alpha**2).sqrt()
        z_t = alpha * z_0 + sigma * noise
        predicted = decoder.unet(z_t, timesteps, encoder_hidden_states=c).sample
        loss = ((alpha * noise - sigma * z_0 - predicted) ** 2).mean()

        assert v_prime.shape == (3, 17, 24)
        assert h_e.shape[1] == 17 + encoder.prompt_ids.shape[1]
        built_z = model.encode(images)
        built_c = model.condition(built_z).tokens
        assert (built_z - z).abs().max() < 1e-5
        assert (built_c - c).abs().max() < 1e-5
        assert (model.caption_decoder.psi(built_c) - e).abs().max() < 1e-5
        built_loss = decoder.denoising_loss(z_0, Conditioning(built_c), noise, timesteps).mean()
        assert (built_loss - loss).abs() < 1e-5
        # Far above the tolerance, so that the agreement says something.
        assert z.std() > 0.1
        assert (z[0] - z[1]).abs().max() > 1e-3
