"""What a checkpoint of the paper's authors computes, from functional operations on its tensors.

A second implementation, read by the original names and written from the equations: nothing of it
passes through our boxes or a transformers class. Only VAE and U-Net are diffusers' own modules,
loaded strictly. Sizes that no tensor shows (heads, windows, strides) are those of the layout.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from tests.checkpoints.authors_layout import (
    BART,
    CLIP,
    PROMPT,
    QWEN,
    SCHEDULER,
    UNET,
    VAE,
    VISION,
    State,
    florence_tokenizer,
    qwen_tokenizer,
)
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


class AuthorsModel:
    """z, c, logits, captions and the denoising loss of a checkpoint's tensors."""

    def __init__(self, state: State, hidden_act: str = "gelu") -> None:
        state = {name.removeprefix("module."): tensor.float() for name, tensor in state.items()}
        self.qwen = under(state, "qwen2_model.")
        self.psi = under(state, "mlp.layers.")
        vlv = under(state, "VLV_model.") or state
        self.florence = under(vlv, "model.")
        self.queries = vlv["query_embed"]
        self.phi = under(vlv, "language_proj.")
        self.clip = under(vlv, "text_encoder.text_model.")
        self.hidden_act = hidden_act
        self.vae, self.unet = under(vlv, "vae."), under(vlv, "unet.")

    def z(self, pixels: Tensor) -> Tensor:
        """Caption embeddings (B,Q,d) of normalised pixels (B,3,H,W)."""
        w, bart = self.florence, under(self.florence, "language_model.model.")
        ids = [florence_tokenizer.bos_token_id]
        ids += florence_tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
        ids += [florence_tokenizer.eos_token_id]
        prompt = bart["shared.weight"][ids].expand(len(pixels), -1, -1)
        image = image_tokens(w, davit(under(w, "vision_tower."), pixels))
        memory = bart_encoder(bart, torch.cat([image, prompt], dim=1))
        return mlp(self.phi, bart_decoder(bart, self.queries.expand(len(pixels), -1, -1), memory))

    def c(self, z: Tensor) -> Tensor:
        """Conditioning (B,Q,d) of z: CLIP's text encoder entered at its token embeddings."""
        w, heads = self.clip, CLIP["num_attention_heads"]
        x = z + w["embeddings.position_embedding.weight"][: z.shape[1]]
        for i in range(CLIP["num_hidden_layers"]):
            name = f"encoder.layers.{i}"
            normed = norm(w, f"{name}.layer_norm1", x)
            x = x + projected(w, f"{name}.self_attn", normed, normed, heads, causal=True)
            hidden = linear(w, f"{name}.mlp.fc1", norm(w, f"{name}.layer_norm2", x))
            x = x + linear(w, f"{name}.mlp.fc2", ACTIVATIONS[self.hidden_act](hidden))
        return norm(w, "final_layer_norm", x)

    def logits(self, c: Tensor, ids: Tensor) -> Tensor:
        """Logits (B,L+1,V) of the tokens after psi(c) and ids[:, :i], for every i of (B,L) ids."""
        e = mlp(self.psi, c)
        embedded = self.qwen["model.embed_tokens.weight"][ids]
        hidden = qwen2(self.qwen, torch.cat([e, embedded], dim=1))[:, e.shape[1] - 1 :]
        return F.linear(hidden, self.qwen["lm_head.weight"])

    def greedy(self, c: Tensor, steps: int) -> list[list[int]]:
        """Tokens of each caption, its end token included where it came within the steps."""
        return [self._greedy(row, steps) for row in c.split(1)]

    def _greedy(self, c: Tensor, steps: int) -> list[int]:
        ids: list[int] = []
        while len(ids) < steps and qwen_tokenizer.eos_token_id not in ids:
            last = self.logits(c, torch.tensor([ids], dtype=torch.long))[0, -1]
            ids.append(int(last.argmax()))
        return ids

    def beams(
        self, c: Tensor, steps: int, early_stopping: bool = False, count: int = 4
    ) -> list[list[int]]:
        """Tokens of each caption by beam search with length penalty 1."""
        return [self._beam_search(row, steps, early_stopping, count) for row in c.split(1)]

    def _beam_search(self, c: Tensor, steps: int, early_stopping: bool, count: int) -> list[int]:
        """The best `count` finished hypotheses by mean log-probability compete; search ends when
        `count` have finished and (early_stopping, or no running one has a better mean than the
        worst of them).
        """
        end = qwen_tokenizer.eos_token_id
        running: list[tuple[float, list[int]]] = [(0.0, [])]
        finished: list[tuple[float, list[int]]] = []
        for length in range(1, steps + 1):
            ids = torch.tensor([tokens for _, tokens in running], dtype=torch.long)
            logs = self.logits(c.expand(len(running), -1, -1), ids)[:, -1].log_softmax(-1)
            scores = logs + torch.tensor([score for score, _ in running])[:, None]
            best = scores.flatten().topk(2 * count)
            candidates = [
                (score, [*running[place // logs.shape[1]][1], place % logs.shape[1]])
                for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            finished += [
                (score / length, tokens)
                for score, tokens in candidates[:count]
                if tokens[-1] == end or length == steps
            ]
            finished = sorted(finished, key=lambda pair: -pair[0])[:count]
            running = [pair for pair in candidates if pair[1][-1] != end][:count]
            if len(finished) == count and (
                early_stopping or running[0][0] / length <= finished[-1][0]
            ):
                break
        return finished[0][1]

    def latents(self, pixels: Tensor) -> Tensor:
        """Scaled means (B,C,h,w) of the VAE's posterior for pixels (B,3,H,W) in [-1,1]."""
        vae = AutoencoderKL(**VAE).eval()
        vae.load_state_dict(self.vae, strict=True)
        return vae.encode(pixels).latent_dist.mean * VAE["scaling_factor"]

    def denoising_loss(
        self, latents: Tensor, c: Tensor, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """Mean squared error (B,) of the noise that the U-Net predicts."""
        unet = UNet2DConditionModel(**UNET).eval()
        unet.load_state_dict(self.unet, strict=True)
        first, last = SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5
        betas = torch.linspace(first, last, SCHEDULER["num_train_timesteps"]) ** 2
        kept = (1 - betas).cumprod(0)[timesteps][:, None, None, None]
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        predicted = unet(noisy, timesteps, encoder_hidden_states=c).sample
        return (predicted - noise).square().flatten(1).mean(1)


def under(state: State, prefix: str) -> State:
    """The tensors below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def linear(w: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def norm(w: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def mlp(w: State, x: Tensor) -> Tensor:
    return linear(w, "2", F.gelu(linear(w, "0", x)))


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """Softmax attention of (B,heads,N,width), heads joined again: (B,N,heads*width)."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if causal:
        future = torch.ones(scores.shape[-2:]).triu(1).bool()
        scores = scores.masked_fill(future, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def by_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def projected(
    w: State, name: str, x: Tensor, source: Tensor, heads: int, causal: bool = False
) -> Tensor:
    q = by_heads(linear(w, f"{name}.q_proj", x), heads)
    k, v = (by_heads(linear(w, f"{name}.{part}", source), heads) for part in ("k_proj", "v_proj"))
    return linear(w, f"{name}.out_proj", attend(q, k, v, causal))


def davit(w: State, x: Tensor) -> Tensor:
    """The vision tower: pixels (B,3,H,W) -> map (B,C,h,w)."""
    for stage, depth in enumerate(VISION["depths"]):
        name, pre = f"convs.{stage}", VISION["patch_prenorm"][stage]
        x = over_channels(w, f"{name}.norm", x) if pre else x
        x = F.conv2d(
            x,
            w[f"{name}.proj.weight"],
            w[f"{name}.proj.bias"],
            VISION["patch_stride"][stage],
            VISION["patch_padding"][stage],
        )
        x = x if pre else over_channels(w, f"{name}.norm", x)
        for block in range(depth):
            for kind, attention in (
                ("spatial_block", "window_attn"),
                ("channel_block", "channel_attn"),
            ):
                name = f"blocks.{stage}.{block}.{kind}"
                x = depthwise(w, f"{name}.conv1.fn.dw", x)
                normed = norm(w, f"{name}.{attention}.norm", x.movedim(1, -1))
                mix = windows if kind == "spatial_block" else channels
                x = x + mix(w, f"{name}.{attention}.fn", normed, stage).movedim(-1, 1)
                x = depthwise(w, f"{name}.conv2.fn.dw", x)
                normed = norm(w, f"{name}.ffn.norm", x.movedim(1, -1))
                hidden = F.gelu(linear(w, f"{name}.ffn.fn.net.fc1", normed))
                x = x + linear(w, f"{name}.ffn.fn.net.fc2", hidden).movedim(-1, 1)
    return x


def over_channels(w: State, name: str, x: Tensor) -> Tensor:
    return norm(w, name, x.movedim(1, -1)).movedim(-1, 1)


def depthwise(w: State, name: str, x: Tensor) -> Tensor:
    weight = w[f"{name}.weight"]
    return x + F.conv2d(x, weight, w[f"{name}.bias"], padding=1, groups=weight.shape[0])


def windows(w: State, name: str, x: Tensor, stage: int) -> Tensor:
    """Attention within squares of a map (B,H,W,C); the last squares are filled up with zeros,
    which take part in it.
    """
    size, heads = VISION["window_size"], VISION["num_heads"][stage]
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    out = torch.zeros_like(padded)
    for top in range(0, height, size):
        for left in range(0, width, size):
            square = padded[:, top : top + size, left : left + size].flatten(1, 2)
            qkv = linear(w, f"{name}.qkv", square).chunk(3, -1)
            mixed = linear(w, f"{name}.proj", attend(*(by_heads(p, heads) for p in qkv)))
            out[:, top : top + size, left : left + size] = mixed.unflatten(1, (size, size))
    return out[:, :height, :width]


def channels(w: State, name: str, x: Tensor, stage: int) -> Tensor:
    """Attention between the channels of a map (B,H,W,C), group by group, scaled by tokens."""
    tokens = x.flatten(1, 2)
    qkv = linear(w, f"{name}.qkv", tokens).chunk(3, -1)
    mixed = []
    for q, k, v in zip(*(p.chunk(VISION["num_groups"][stage], -1) for p in qkv), strict=True):
        weights = (q.mT @ k / tokens.shape[1] ** 0.5).softmax(-1)
        mixed.append((weights @ v.mT).mT)
    return linear(w, f"{name}.proj", torch.cat(mixed, -1)).unflatten(1, x.shape[1:3])


def image_tokens(w: State, x: Tensor) -> Tensor:
    """Map (B,C,h,w) -> the mean token and all tokens (B,1+hw,D), projected."""
    height, width = x.shape[2:]
    columns = w["image_pos_embed.column_embeddings.weight"][:width]
    rows = w["image_pos_embed.row_embeddings.weight"][:height]
    places = [columns.expand(height, -1, -1), rows[:, None].expand(-1, width, -1)]
    tokens = (x.movedim(1, -1) + torch.cat(places, dim=-1)).flatten(1, 2)
    tokens = tokens + w["visual_temporal_embed.pos_idx_to_embed"][0]
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)
    return norm(w, "image_proj_norm", tokens @ w["image_projection"])


def bart_encoder(w: State, x: Tensor) -> Tensor:
    x = entered(w, "encoder", x)
    for i in range(BART["encoder_layers"]):
        name = f"encoder.layers.{i}"
        mixed = projected(w, f"{name}.self_attn", x, x, BART["encoder_attention_heads"])
        x = norm(w, f"{name}.self_attn_layer_norm", x + mixed)
        x = feed_forward(w, name, x)
    return x


def bart_decoder(w: State, x: Tensor, memory: Tensor) -> Tensor:
    heads = BART["decoder_attention_heads"]
    x = entered(w, "decoder", x)
    for i in range(BART["decoder_layers"]):
        name = f"decoder.layers.{i}"
        mixed = projected(w, f"{name}.self_attn", x, x, heads, causal=True)
        x = norm(w, f"{name}.self_attn_layer_norm", x + mixed)
        mixed = projected(w, f"{name}.encoder_attn", x, memory, heads)
        x = norm(w, f"{name}.encoder_attn_layer_norm", x + mixed)
        x = feed_forward(w, name, x)
    return x


def entered(w: State, name: str, x: Tensor) -> Tensor:
    """BART's positions start at row 2 of their table; a LayerNorm follows them."""
    positions = w[f"{name}.embed_positions.weight"][2 : 2 + x.shape[1]]
    return norm(w, f"{name}.layernorm_embedding", x + positions)


def feed_forward(w: State, name: str, x: Tensor) -> Tensor:
    hidden = linear(w, f"{name}.fc2", F.gelu(linear(w, f"{name}.fc1", x)))
    return norm(w, f"{name}.final_layer_norm", x + hidden)


def qwen2(w: State, x: Tensor) -> Tensor:
    """Last hidden states (B,N,D) of embeddings (B,N,D)."""
    heads, kept = QWEN["num_attention_heads"], QWEN["num_key_value_heads"]
    turn = rotary(x.shape[1], x.shape[2] // heads)
    for i in range(QWEN["num_hidden_layers"]):
        name = f"model.layers.{i}"
        normed = root_mean_square_norm(w, f"{name}.input_layernorm", x)
        q = turn(by_heads(linear(w, f"{name}.self_attn.q_proj", normed), heads))
        k = turn(by_heads(linear(w, f"{name}.self_attn.k_proj", normed), kept))
        v = by_heads(linear(w, f"{name}.self_attn.v_proj", normed), kept)
        k, v = (part.repeat_interleave(heads // kept, dim=1) for part in (k, v))
        x = x + linear(w, f"{name}.self_attn.o_proj", attend(q, k, v, causal=True))
        normed = root_mean_square_norm(w, f"{name}.post_attention_layernorm", x)
        gate = F.silu(linear(w, f"{name}.mlp.gate_proj", normed))
        hidden = gate * linear(w, f"{name}.mlp.up_proj", normed)
        x = x + linear(w, f"{name}.mlp.down_proj", hidden)
    return root_mean_square_norm(w, "model.norm", x)


def root_mean_square_norm(w: State, name: str, x: Tensor) -> Tensor:
    scale = (x.square().mean(-1, keepdim=True) + QWEN["rms_norm_eps"]).rsqrt()
    return w[f"{name}.weight"] * x * scale


def rotary(length: int, width: int) -> Callable[[Tensor], Tensor]:
    """Turns the pairs (i, i + width/2) of (B,heads,N,width) by their position's angles."""
    rates = QWEN["rope_theta"] ** -(torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * rates
    cos, sin = angles.cos(), angles.sin()

    def turn(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    return turn
