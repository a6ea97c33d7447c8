"""How often captions are split into words as Java splits them, for CIDEr, BLEU and ROUGE-L.

    python benchmarks/caption_words.py FILE...

FILE: English texts. Needs Java: Stanford's PTBTokenizer comes with pycocoevalcap. Prints the share
of sentences whose words are all the same, and the share of words.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from vlv.evaluation.metrics.caption_overlap import words_of

_SENTENCE = re.compile(r"[A-Z][A-Za-z0-9 ,.'’\"()\-;:!?%$&/“”]{29,249}")


def sentences(files: list[Path]) -> list[str]:
    """Sentences of prose, each once."""
    found: dict[str, None] = {}
    for file in files:
        text = " ".join(file.read_text(encoding="utf-8", errors="ignore").split())
        found |= {one: None for one in re.split(r"(?<=[.!?])\s+", text) if _SENTENCE.fullmatch(one)}
    return list(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    texts = sentences(parser.parse_args().files)
    java = PTBTokenizer().tokenize({at: [{"caption": text}] for at, text in enumerate(texts)})
    same = words = shared = 0
    for at, text in enumerate(texts):
        (line,) = java[at]
        theirs, ours = line.split(), words_of(text)
        same += theirs == ours
        words += len(theirs)
        shared += sum((Counter(theirs) & Counter(ours)).values())
    print(f"{len(texts):,} sentences, {100 * same / len(texts):.1f}% with the same words")
    print(f"{words:,} words, {100 * shared / words:.2f}% the same")


if __name__ == "__main__":
    main()
