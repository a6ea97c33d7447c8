import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig

from vlv.pipeline import VLV

CAPTIONS = ["A small red cube stands.", "Two green cones stand at the back on a brown floor."]


@pytest.fixture
def c(model: VLV) -> Tensor:
    return model.read(torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(3))).detach()


def test_captions_end_with_the_end_token(model: VLV) -> None:
    ids, lengths = model.caption_decoder.tokenise(CAPTIONS)
    end = model.caption_decoder.tokenizer.eos_token_id
    for row, length, caption in zip(ids, lengths, CAPTIONS, strict=True):
        assert row[length - 1] == end
        assert end not in row[: length - 1]
        assert model.caption_decoder.tokenizer.decode(row[: length - 1]) == caption


def test_a_cut_caption_gets_no_end_token(model: VLV) -> None:
    ids, lengths = model.caption_decoder.tokenise(CAPTIONS, max_length=4)
    assert lengths.tolist() == [4, 4]
    assert model.caption_decoder.tokenizer.eos_token_id not in ids


def test_special_tokens_written_in_a_caption_are_plain_text(model: VLV) -> None:
    ids, lengths = model.caption_decoder.tokenise(["a cube <|endoftext|> here"])
    assert (ids == model.caption_decoder.tokenizer.eos_token_id).sum() == 1
    assert (
        model.caption_decoder.tokenizer.decode(ids[0, : lengths[0] - 1])
        == "a cube <|endoftext|> here"
    )


def test_the_loss_is_the_mean_over_captions_of_the_mean_over_their_tokens(
    model: VLV, c: Tensor
) -> None:
    """Cross-entropy of each caption token given e and the tokens before it, caption by caption."""
    ids, lengths = model.caption_decoder.tokenise(CAPTIONS)
    loss = model.caption_decoder(c, ids, lengths)
    means = []
    for row, length, context in zip(ids, lengths, c, strict=True):
        e = model.caption_decoder.psi(context)[None]
        total = 0.0
        for position in range(int(length)):
            before = model.caption_decoder.lm.get_input_embeddings()(row[None, :position])
            logits = model.caption_decoder.lm(inputs_embeds=torch.cat([e, before], dim=1)).logits[
                0, -1
            ]
            total += F.cross_entropy(logits, row[position]).item()
        means.append(total / int(length))
    assert loss.item() == pytest.approx(sum(means) / len(means), abs=1e-5)


def test_what_lies_beyond_the_length_never_enters_the_loss(model: VLV, c: Tensor) -> None:
    ids, lengths = model.caption_decoder.tokenise(CAPTIONS)
    loss = model.caption_decoder(c, ids, lengths)
    beyond = torch.arange(ids.shape[1]) >= lengths[:, None]
    assert beyond.any()
    assert torch.allclose(
        model.caption_decoder(c, ids.masked_fill(beyond, 7), lengths), loss, atol=1e-6
    )
    # The end token is the padding token here, and it still counts where it ends the caption.
    assert (
        model.caption_decoder.tokenizer.pad_token_id == model.caption_decoder.tokenizer.eos_token_id
    )
    assert model.caption_decoder(c, ids, lengths - 1) != loss


def test_exchanged_tokens_are_read_as_in_captions_of_their_own(
    model: VLV, c: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = model.caption_decoder
    ids = decoder.tokenizer("A small red cube stands on the left.")["input_ids"]
    exchanged = [(at, token) for at in range(len(ids)) for token in (3, 5, 7)]
    following = [(*ids[1:], 9)[at] for at, _ in exchanged]
    expected = []
    for (at, token), after in zip(exchanged, following, strict=True):
        row = [*ids[:at], token, *ids[at + 1 :], 9]
        expected.append(float(decoder.log_probabilities(c[:1], row)[at + 1, after].exp()))
    for at_once in (128, 4):
        monkeypatch.setattr("vlv.models.exchanged_tokens.AT_ONCE", at_once)
        found = decoder.next_probabilities(c[:1], ids, exchanged, following)
        assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert len(set(expected)) > len(ids)
    assert not len(decoder.next_probabilities(c[:1], ids, [], []))


def test_the_text_loss_is_the_library_s_of_each_text(model: VLV) -> None:
    ids, lengths = model.caption_decoder.tokenise(CAPTIONS)
    alone = [row[None, :length] for row, length in zip(ids, lengths, strict=True)]
    losses = [model.caption_decoder.lm(input_ids=row, labels=row).loss.item() for row in alone]
    mean = sum(losses) / len(losses)
    assert model.caption_decoder.text_loss(ids, lengths).item() == pytest.approx(mean, abs=1e-5)


def _train_on(model: VLV, c: Tensor, captions: list[str]) -> None:
    ids, lengths = model.caption_decoder.tokenise(captions)
    optimizer = torch.optim.AdamW(model.caption_decoder.parameters(), lr=2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.caption_decoder(c, ids, lengths).backward()
        optimizer.step()


def test_a_trained_captioner_ends_by_itself(model: VLV, c: Tensor) -> None:
    _train_on(model, c, CAPTIONS)
    for beams in (1, 4):
        made = model.caption_decoder.generate(c, num_beams=beams, max_new_tokens=40)
        assert [one.text for one in made] == CAPTIONS
        assert all(one.ended for one in made)
    _, lengths = model.caption_decoder.tokenise(CAPTIONS)
    assert [one.tokens for one in made] == (lengths - 1).tolist()

    (cut,) = model.caption_decoder.generate(c[:1], num_beams=1, max_new_tokens=3)
    assert not cut.ended
    assert cut.tokens == 3
    assert CAPTIONS[0].startswith(cut.text)
    (forced,) = model.caption_decoder.generate(
        c[:1], num_beams=1, min_new_tokens=20, max_new_tokens=30
    )
    assert forced.tokens >= 20


def test_sampling_is_decided_by_torch_s_seed(model: VLV, c: Tensor) -> None:
    settings = {
        "do_sample": True,
        "num_beams": 1,
        "temperature": 1.5,
        "top_p": 0.95,
        "max_new_tokens": 12,
    }
    torch.manual_seed(1)
    first = model.caption_decoder.generate(c, **settings)
    second = model.caption_decoder.generate(c, **settings)
    torch.manual_seed(1)
    again = model.caption_decoder.generate(c, **settings)
    assert first == again
    assert first != second


def test_generation_ignores_the_published_settings_and_is_quiet(
    model: VLV, c: Tensor, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    plain = model.caption_decoder.generate(c, num_beams=2, max_new_tokens=8)
    lm, tokenizer = model.caption_decoder.lm, model.caption_decoder.tokenizer
    lm.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=20, repetition_penalty=1.3, max_length=3
    )
    rebuilt = type(model.caption_decoder)(lm, tokenizer, 16).eval()
    rebuilt.psi.load_state_dict(model.caption_decoder.psi.state_dict())
    assert rebuilt.generate(c, num_beams=2, max_new_tokens=8) == plain
    assert capfd.readouterr() == ("", "")
    assert not [w for w in recwarn.list if not issubclass(w.category, DeprecationWarning)]
