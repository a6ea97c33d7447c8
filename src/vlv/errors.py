"""Every error that vlv raises on purpose. Knows nothing of models, data or training.

A message is one sentence: what is wrong, where, and what to do about it.
"""


class VLVError(Exception):
    """Base of all errors that a user can cause and mend."""


class ConfigError(VLVError):
    """A configuration file, override or flag is wrong."""


class CheckpointError(VLVError):
    """A model folder is missing, damaged, or does not fit the code that reads it."""


UNNAMED = "the given image"
"""What messages call an image that is given as bytes."""


class ImageError(VLVError):
    """An image was refused; `reason` is a short name that a report can count."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def named(self, name: str) -> "ImageError":
        """The same refusal of an image that was decoded from bytes, which have no name."""
        return ImageError(self.reason, str(self).replace(UNNAMED, name, 1))

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """For another process: the base would give the message alone."""
        return type(self), (self.reason, str(self))


class DatasetError(VLVError):
    """A set of images and captions is missing, damaged, or not in a known layout."""


class WorldError(VLVError):
    """A scene, split or caption of the embedded world is impossible."""


class TrainingError(VLVError):
    """A training run cannot start, resume or go on."""


class BudgetError(TrainingError):
    """A training run has spent its budget; its last checkpoint is complete, and a higher budget
    continues it.
    """


class EngineError(VLVError):
    """An engine that runs the language model has stopped, or does not answer."""


class EngineStopped(EngineError):
    """The process of an engine has ended. What it worked on can be given to another one."""


class OutOfDistributionWarning(UserWarning):
    """Images are unlike those of training: their captions cannot be trusted."""
