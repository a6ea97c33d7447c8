"""What stages 1 and 2 see at a position: a picture, its caption in stage 2, and noise."""

from typing import TYPE_CHECKING

from vlv.training.samples.data_order import numpy_generator
from vlv.training.samples.draws import DrawSettings
from vlv.training.samples.images import ImageStore
from vlv.training.samples.query_drop import QueryDrop
from vlv.training.samples.source import Batch, SampleSource

if TYPE_CHECKING:
    from vlv.training.samples.distillation import DistillationDraws
    from vlv.training.samples.texts import Texts
    from vlv.training.samples.tokens import CaptionTokens


class ImageSamples(SampleSource):
    """Pictures of a store, with captions where `tokens` makes ids of them, some of them of `texts`
    in place of the picture's, with noise where `draws` says how, with what `distillation` from the
    picture's caption sees, and with the embeddings that are kept where `query_drop` says how.
    """

    def __init__(
        self,
        store: ImageStore,
        seed: int,
        *,
        draws: DrawSettings | None = None,
        tokens: "CaptionTokens | None" = None,
        query_drop: QueryDrop | None = None,
        texts: "Texts | None" = None,
        distillation: "DistillationDraws | None" = None,
    ) -> None:
        self.store = store
        self._seed = seed
        self._draws = draws
        self._tokens = tokens
        self._query_drop = query_drop
        self._texts = texts
        self._distillation = distillation
        self.shards = store.shards
        if store.counts_refused:
            self.counted = frozenset({"refused"})

    @property
    def fingerprint(self) -> str | None:
        texts = None if self._texts is None else self._texts.fingerprint
        return self.store.fingerprint if texts is None else f"{self.store.fingerprint}-{texts}"

    @property
    def captions_fingerprint(self) -> str | None:
        return self.store.captions_fingerprint

    def __len__(self) -> int:
        return len(self.store)

    def fetch_ahead(self, index: int) -> None:
        self.store.fetch_ahead(index)

    def item(self, position: int, index: int) -> Batch:
        words = None
        if self._tokens is not None:
            words = numpy_generator(self._seed, position, "caption")
        view = self.store.view(index, words)
        item = dict(view.item)
        caption = view.caption
        if self._texts is not None:
            written, text = self._texts.at(position)
            caption = caption if written is None else written
            item |= text
        if self._tokens is not None:
            item |= self._tokens.item(caption)
        if self._draws is not None:
            shown = index if view.index is None else view.index
            item |= self.store.with_latents(shown, self._draws.at(position))
        if self._distillation is not None:
            item |= self._distillation.at(position, view.caption)
        if self._query_drop is not None:
            item |= self._query_drop.at(position)
        return item
