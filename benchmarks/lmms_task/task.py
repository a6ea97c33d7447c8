"""What the task `three_images` of lmms-eval calls."""

from typing import Any

from PIL import Image


def images(doc: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(doc["image"]).convert("RGB")]


def results(doc: dict[str, Any], answers: list[str]) -> dict[str, float]:
    return {"same": float(answers[0] == doc["text"])}
