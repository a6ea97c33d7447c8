"""What the boxes give that is no tensor: captions and images.

Imports no torch, so that a process without a model, such as that of the HTTP server, reads them.
"""

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Caption:
    """One caption; `ended` says whether the model closed it with its end token itself, and
    `tokens` counts what it wrote without that token and a forced start.
    """

    text: str
    ended: bool
    tokens: int


@dataclass(frozen=True)
class ImageOutput:
    """Images that the diffusion decoder drew, in the order of the inputs."""

    images: list[Image.Image]
