"""Texts before which a caption ends."""

from dataclasses import replace

from vlv.models.outputs import Caption


class StopTexts:
    """Texts before which a caption ends."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._texts = texts

    def end_of(self, text: str) -> int | None:
        """Where the first stop text starts; None if the text has none."""
        found = [at for one in self._texts if (at := text.find(one)) >= 0]
        return min(found, default=None)

    def end_of_certain(self, text: str) -> int:
        """Where the end of the text starts that may be the beginning of a stop text."""
        open_lengths = [
            length
            for one in self._texts
            for length in range(1, len(one))
            if text.endswith(one[:length])
        ]
        return len(text) - max(open_lengths, default=0)

    def cut(self, caption: Caption) -> Caption:
        """The caption before the first stop text, where it then ended."""
        end = self.end_of(caption.text)
        if end is None:
            return caption
        return replace(caption, text=caption.text[:end].rstrip(), ended=True)
