"""Stage 1: vision-language-vision auto-encoding, from images alone (paper, section 3.1).

A frozen text-to-image model trains the encoder: the decoder cannot denoise what the embeddings z do
not contain. No caption enters, not even for validation.
"""

from torch import Tensor

from vlv.training.objectives.denoising import denoising_loss
from vlv.training.objectives.encoding import EncoderObjective
from vlv.training.objectives.kept_queries import kept_queries, visible
from vlv.training.samples.source import Batch


class Stage1Objective(EncoderObjective):
    """L = ||eps - eps_theta(z_t, t, T(E(x)))||^2, or the counterpart for the scheduler's target."""

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.decoder is not None  # stage 1 always denoises
        c = visible(self.text_tower(self.embeddings(batch)), kept_queries(batch))
        return denoising_loss(self.decoder, batch, c, self.weighting), {}

    def validate(self) -> dict[str, float]:
        with self.precision():
            return self.reconstruction_metrics()
