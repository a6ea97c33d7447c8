"""From evidence to marks: which sentences are supported, at a false-alarm rate that was measured.

Part of a model folder: embeddings z of a few other pictures, what evidence against sentences
looks like when they are true, and which pictures and sentences can be judged at all. Knows evidence
and numbers only.

Shapes: N pictures, Q,d length and width of z, M sentences.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vlv.checkpoints.components import fit_weights, read_settings, write_settings
from vlv.checkpoints.manifest import note_component
from vlv.checkpoints.weights import load_weights, save_weights
from vlv.errors import ConfigError
from vlv.models.vlv import VLVModel
from vlv.verification.calibration import Calibration, fit_log_odds, log_odds, probability
from vlv.verification.evidence import SentenceEvidence
from vlv.verification.scorer import VerifySettings
from vlv.verification.sentence_ood import SentenceDetector
from vlv.verification.verdicts import SentenceSupport

WEIGHTS_FILE = "references.safetensors"
SETTINGS_FILE = "vlv_verifier.json"
FALSE_ALARM_RATE = 0.05
# True sentences that a threshold needs at least.
_FEWEST = 50


class VerifierSettings(BaseModel):
    """What a verifier was fitted on and what came out.

    levels, repeats, per_word, per_nat: those of `VerifySettings` for the evidence. gains: of true
    sentences, quantiles at equal steps from 0 to 1. most: true sentences of one picture; 0 in a
    verifier that was calibrated on single sentences. intercept, slope: the log-odds that a sentence
    is true are intercept - slope * log(gain). sentences, true_share: of the fit.
    own_error: that of `DenoisingScorer.own_error` up to which a picture can be judged.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    references: int = Field(ge=1)
    queries: int = Field(ge=1)
    width: int = Field(ge=1)
    levels: tuple[float, ...]
    repeats: int = Field(ge=1)
    per_word: int = Field(ge=0)
    per_nat: float = Field(0.0, ge=0)
    gains: tuple[float, ...] = Field(min_length=2, validation_alias=AliasChoices("gains", "doubts"))
    most: int = Field(0, ge=0)
    intercept: float
    slope: float
    sentences: int = Field(ge=1)
    true_share: float = Field(ge=0, le=1)
    own_error: float | None = None

    @property
    def verify(self) -> VerifySettings:
        """Settings to gather evidence with."""
        return VerifySettings(self.levels, self.repeats, self.per_word, per_nat=self.per_nat)

    @property
    def calibration(self) -> Calibration:
        """Of the marks."""
        return Calibration(self.gains, round(self.true_share * self.sentences), self.most)


class Verifier(nn.Module):
    """References and a calibration; `marks` makes of evidence what users read.

    sentences: which sentences can be judged; None in a verifier of before that was asked, which
    can judge none.
    """

    references: Tensor

    def __init__(
        self, settings: VerifierSettings, sentences: SentenceDetector | None = None
    ) -> None:
        super().__init__()
        self.settings = settings
        self.sentences = sentences
        shape = (settings.references, settings.queries, settings.width)
        self.register_buffer("references", torch.zeros(shape))

    @classmethod
    def fit(
        cls,
        references: Tensor,
        evidence: Sequence[Sequence[SentenceEvidence]],
        true: Sequence[Sequence[bool]],
        settings: VerifySettings,
        sentences: SentenceDetector | None = None,
        own_error: float | None = None,
    ) -> "Verifier":
        """From the evidence against the sentences of the captions of each of many pictures, of
        which it is known whether they are true.

        references (N,Q,d): z of pictures as they are captioned, with which it was gathered.
        sentences, own_error: which sentences and pictures can be judged.
        Raises ConfigError where fewer than `_FEWEST` sentences are true.
        """
        truth = np.array([one for picture in true for one in picture], dtype=bool)
        require_true_sentences(truth.tolist())
        gains = [[one.gain for one in picture] for picture in evidence]
        calibration = Calibration.of(
            [
                [gain for gain, holds in zip(picture, truths, strict=True) if holds]
                for picture, truths in zip(gains, true, strict=True)
            ]
        )
        every = np.array([gain for picture in gains for gain in picture])
        intercept, slope = fit_log_odds(every, truth)
        made = cls(
            VerifierSettings(
                references=references.shape[0],
                queries=references.shape[1],
                width=references.shape[2],
                levels=settings.levels,
                repeats=settings.repeats,
                per_word=settings.per_word,
                per_nat=settings.per_nat,
                gains=calibration.gains,
                most=calibration.most,
                intercept=intercept,
                slope=slope,
                sentences=len(truth),
                true_share=float(truth.mean()),
                own_error=own_error,
            ),
            sentences,
        )
        made.references = references.detach().cpu().half().float()
        return made

    def marks(
        self, evidence: Sequence[SentenceEvidence], false_alarm_rate: float = FALSE_ALARM_RATE
    ) -> list[SentenceSupport]:
        """Marks that call about `false_alarm_rate` of true sentences unsupported.

        Raises ConfigError for a rate outside of 0 to 1.
        """
        require_rate(false_alarm_rate)
        return [self._mark(one, false_alarm_rate) for one in evidence]

    def alarm_rate(self, gain: float) -> float:
        """The share of true sentences, at most, that have at least this gain."""
        return self.settings.calibration.alarm_rate(gain)

    def _mark(self, one: SentenceEvidence, false_alarm_rate: float) -> SentenceSupport:
        alarm_rate = self.alarm_rate(one.gain)
        odds = log_odds(one.gain, self.settings.intercept, self.settings.slope)
        supported = alarm_rate > false_alarm_rate
        return SentenceSupport(
            text=one.text,
            start=one.start,
            end=one.end,
            score=-one.gain,
            alarm_rate=alarm_rate,
            probability=probability(float(odds)),
            supported=supported,
            better=one.best if one.gain > 0 else None,
            verdict="supported" if supported else "unsupported",
        )

    def save(self, folder: Path) -> None:
        """Write references, in half precision, settings, and what sentences can be judged."""
        save_weights({"references": self.references.half()}, folder / WEIGHTS_FILE)
        write_settings(self.settings, folder / SETTINGS_FILE)
        if self.sentences is not None:
            self.sentences.save(folder)

    @classmethod
    def load(cls, folder: Path) -> "Verifier":
        """Read what `save` wrote; every misfit is a `CheckpointError` that names it."""
        settings = read_settings(VerifierSettings, folder / SETTINGS_FILE)
        made = cls(settings, SentenceDetector.load(folder))
        path = folder / WEIGHTS_FILE
        fit_weights(made, load_weights(path, torch.float32), path)
        return made


def verifier_of(model: VLVModel) -> Verifier | None:
    """The verifier of a model, read from its folder on first use; None where it has none."""
    if "verifier" not in model.manifest.components:
        return None
    verifier: Verifier = model.extra("verifier", Verifier.load)
    return verifier


def require_rate(false_alarm_rate: float) -> None:
    """Raise ConfigError for a false-alarm rate that is no share."""
    if not 0 <= false_alarm_rate <= 1:
        raise ConfigError(f"the false-alarm rate must be 0 to 1, not {false_alarm_rate}")


def require_true_sentences(true: Sequence[bool]) -> None:
    """Raise ConfigError where too few sentences are true to estimate false alarms."""
    if sum(true) < _FEWEST:
        raise ConfigError(
            f"{sum(true)} true sentences are too few to estimate the rate of false alarms; give "
            f"at least {_FEWEST}"
        )


def add_verifier(verifier: Verifier, folder: Path) -> None:
    """Put it into a model folder, in place of an older one; nothing else there is written."""
    verifier.save(folder / "verifier")
    note_component("verifier", folder)
