"""A tiny tokenizer of Gemma's class."""

from transformers import GemmaTokenizer

SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
# Words that the texts of the tests share; all else is spelled in letters or bytes.
_WORDS = ("▁a", "▁small", "▁red", "▁cube", "▁the", "▁light", "▁right", "▁prompt", "▁User")


def gemma_tokenizer() -> GemmaTokenizer:
    """Gemma's tokenizer with letters, bytes, and merges for a few words. As in Gemma, a space
    belongs to the word behind it, every text has the first token before it and no end token.
    """
    letters = [chr(code) for code in range(33, 127)] + ["▁", "\n"]
    merges: list[tuple[str, str]] = []
    pieces: list[str] = []
    for word in _WORDS:
        for end in range(2, len(word) + 1):
            pair = (word[: end - 1], word[end - 1])
            if pair not in merges:
                merges.append(pair)
                pieces.append(word[:end])
    tokens = dict.fromkeys(
        [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *pieces]
    )
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
    tokenizer.update_post_processor()
    return tokenizer
