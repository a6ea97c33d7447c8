"""What the task `two_images` calls."""

from PIL import Image


def images(doc):
    return [Image.open(doc["image"]).convert("RGB")]


def results(doc, results):
    return {"same": float(results[0] == doc["text"])}
