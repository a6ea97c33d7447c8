"""The columns of web metadata, which every collection names in its own way.

LAION-2B-en-aesthetic, Re-LAION, DataComp and the JSON files of img2dataset are known.
"""

import difflib
from collections.abc import Iterable

from vlv.errors import ConfigError

# Our name -> names in metadata, in lower case, the most exact first.
ALIASES = {
    "url": ("url", "image_url", "img_url"),
    "caption": ("caption", "text", "alt_text", "top_caption"),
    "width": ("width", "original_width", "image_width"),
    "height": ("height", "original_height", "image_height"),
    "watermark": ("watermark", "pwatermark", "p_watermark", "watermark_probability"),
    "aesthetic": ("aesthetic", "aesthetic_score", "aesthetics_score", "aesthetic_predicted_score"),
    "unsafe": ("unsafe", "punsafe", "p_unsafe", "nsfw_score", "nsfw_prediction"),
    "nsfw": ("nsfw", "nsfw_label"),
    "similarity": (
        *("similarity", "clip_similarity", "clip_l14_similarity_score"),
        "clip_b32_similarity_score",
    ),
}
# Columns of hashes that a blocklist may name.
HASHES = ("hash", "key", "uid", "sha256", "md5", "phash")


def found_columns(names: Iterable[str]) -> dict[str, str]:
    """Our name -> the column of the given ones that it stands for."""
    by_lower: dict[str, str] = {}
    for name in names:
        by_lower.setdefault(name.lower(), name)
    found = {}
    for ours, aliases in ALIASES.items():
        column = next((by_lower[alias] for alias in aliases if alias in by_lower), None)
        if column is not None:
            found[ours] = column
    return found


def require_columns(needed: Iterable[str], names: Iterable[str], why: str) -> None:
    """Raises ConfigError, which lists the columns, if a needed one is missing.

    needed: our names, or those of columns, in any case. why: what needs them.
    """
    names = list(names)
    known = {name.lower() for name in (*names, *found_columns(names))}
    missing = sorted({name for name in needed if name.lower() not in known})
    if not missing:
        return
    near = difflib.get_close_matches(missing[0].lower(), sorted(known), n=1)
    aliases = ALIASES.get(missing[0].lower())
    if aliases is not None:
        hint = f"; it may also be named {', '.join(aliases[1:])}"
    else:
        hint = f"; did you mean {near[0]}?" if near else ""
    shown = ", ".join(names[:30]) or "none"
    raise ConfigError(
        f"{why} needs the column {' and '.join(missing)}, which the source does not have (its "
        f"columns are {shown}){hint}"
    )
