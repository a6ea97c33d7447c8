"""Runs every node of the pack in a running ComfyUI, through its HTTP API.

    python benchmarks/comfyui_workflow.py http://127.0.0.1:8188 FOLDER

ComfyUI runs on this machine and has the node pack of docs/integrations/comfyui.md. FOLDER is made,
with images of the embedded world for the nodes to read. Prints a line for each thing that is
compared with what `vlv` computes itself, and exits with 1 if one differs.
"""

import io
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlv import VLV
from vlv.data.world_sets import world_samples

MODEL = "vlv-mini"
STEPS, SEED = 4, 5
KEPT = 70, 7
_TIMEOUT = 300.0


class ComfyUI:
    """The part of its HTTP API that a workflow needs."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")

    def ask(self, path: str, body: Any = None) -> Any:
        """The JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        return json.loads(self._read(path, data, "application/json") or "null")

    def upload(self, name: str, picture: Image.Image) -> str:
        """Put an image into the input folder; its name there."""
        boundary = uuid.uuid4().hex
        data = io.BytesIO()
        picture.save(data, "PNG")
        parts = (
            f"--{boundary}\r\nContent-Disposition: form-data; name=overwrite\r\n\r\ntrue\r\n"
            f"--{boundary}\r\nContent-Disposition: form-data; name=image; filename={name}\r\n"
            "Content-Type: image/png\r\n\r\n"
        ).encode()
        body = parts + data.getvalue() + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        return str(json.loads(self._read("/upload/image", body, kind))["name"])

    def start(self, workflow: dict[str, Any]) -> str:
        """Queue a workflow; the id of the run."""
        return str(self.ask("/prompt", {"prompt": workflow})["prompt_id"])

    def run(self, workflow: dict[str, Any]) -> dict[str, Any]:
        """Run a workflow to its end; what ComfyUI says of it."""
        return self.ended(self.start(workflow))

    def ended(self, run: str) -> dict[str, Any]:
        """What ComfyUI says of a run that has ended."""
        until = time.monotonic() + _TIMEOUT
        while not (found := self.ask(f"/history/{run}")):
            if time.monotonic() > until:
                raise SystemExit(f"run {run} has not ended after {_TIMEOUT:g} s")
            time.sleep(0.2)
        return dict(found[run])

    def picture(self, place: dict[str, str]) -> Image.Image:
        """An image that a run has saved."""
        data = self._read(f"/view?{urllib.parse.urlencode(place)}")
        return Image.open(io.BytesIO(data)).convert("RGB")

    def _read(self, path: str, data: bytes | None = None, kind: str = "") -> bytes:
        headers = {"Content-Type": kind} if data is not None else {}
        request = urllib.request.Request(self._address + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{path}: {error.code}: {error.read().decode()}") from error


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node as the API writes it; an input ["name", 1] is output 1 of node `name`."""
    return {"class_type": kind, "inputs": inputs}


def workflow(images: list[str], caption: str, folder: Path) -> dict[str, Any]:
    """Every node of the pack, with an output to look at."""
    model = ["model", 0]
    drawing = {"seed": SEED, "steps": STEPS, "guidance_scale": 2.0, "scheduler": "ddim"}
    generation = {"num_beams": 4, "max_new_tokens": 300, "temperature": 0.0, "seed": 0}
    folders = {"folder": str(folder), "extension": ".txt", "subfolders": False, "overwrite": False}
    compose = {"keep_first": KEPT[0], "keep_second": KEPT[1], "order": "trailing"}
    return {
        "model": node("VLVLoadModel", model=MODEL, device="cpu", dtype="auto"),
        "a": node("LoadImage", image=images[0]),
        "b": node("LoadImage", image=images[1]),
        "both": node("ImageBatch", image1=["a", 0], image2=["b", 0]),
        "caption": node("VLVCaption", model=model, image=["both", 0], trigger="", **generation),
        "captions": node("PreviewAny", source=["caption", 0]),
        "verify": node(
            "VLVVerify", model=model, image=["a", 0], caption=caption, false_alarm_rate=0.05
        ),
        "supported": node("PreviewAny", source=["verify", 0]),
        "unsupported": node("PreviewAny", source=["verify", 1]),
        "marks": node("PreviewAny", source=["verify", 2]),
        "z_a": node("VLVEncode", model=model, image=["a", 0]),
        "z_b": node("VLVEncode", model=model, image=["b", 0]),
        "reconstruct": node("VLVReconstruct", model=model, embeddings=["z_a", 0], **drawing),
        "reconstructed": node("SaveImage", images=["reconstruct", 0], filename_prefix="vlv-a"),
        "compose": node("VLVCompose", model=model, first=["z_a", 0], second=["z_b", 0], **compose),
        "draw": node("VLVReconstruct", model=model, embeddings=["compose", 0], **drawing),
        "composed": node("SaveImage", images=["draw", 0], filename_prefix="vlv-ab"),
        "folder": node("VLVCaptionFolder", model=model, trigger="ohwx", **folders, **generation),
        "report": node("PreviewAny", source=["folder", 0]),
    }


def cancelled(comfyui: ComfyUI, image: str) -> bool:
    """Whether Cancel ends a drawing of many steps, long before it would end by itself."""
    drawing = {"seed": 0, "steps": 1000, "guidance_scale": 2.0, "scheduler": "ddim"}
    run = comfyui.start(
        {
            "model": node("VLVLoadModel", model=MODEL, device="cpu", dtype="auto"),
            "a": node("LoadImage", image=image),
            "z": node("VLVEncode", model=["model", 0], image=["a", 0]),
            "draw": node("VLVReconstruct", model=["model", 0], embeddings=["z", 0], **drawing),
            "drawn": node("PreviewImage", images=["draw", 0]),
        }
    )
    time.sleep(3)
    assert comfyui.ask("/queue")["queue_running"], "it has ended by itself"
    comfyui.ask("/interrupt", {"prompt_id": run})
    pressed = time.monotonic()
    messages = [kind for kind, _ in comfyui.ended(run)["status"]["messages"]]
    return messages[-1] == "execution_interrupted" and time.monotonic() - pressed < 5


def texts(outputs: dict[str, Any], name: str) -> list[str]:
    """What a node has shown."""
    return [str(one) for one in outputs[name]["text"]]


def main(address: str, folder: Path) -> bool:
    """Whether everything is as `vlv` computes it."""
    samples = list(world_samples(3, seed=11, split="test"))
    pictures = [one.picture() for one in samples]
    folder.mkdir(parents=True)
    for at, picture in enumerate(pictures):
        picture.save(folder / f"{at}.png")
    (folder / "torn.png").write_text("no image")
    caption = str(samples[1].caption)  # of another image

    comfyui = ComfyUI(address)
    names = [comfyui.upload(f"vlv-{at}.png", one) for at, one in enumerate(pictures[:2])]
    ran = comfyui.run(workflow(names, caption, folder))
    if ran["status"]["status_str"] != "success":
        print(json.dumps(ran["status"]["messages"][-1], indent=2))
        return False
    outputs = ran["outputs"]

    model = VLV.from_pretrained(MODEL, device="cpu")
    z = model.encode(pictures[:2])
    drawing = {"seeds": [SEED], "num_inference_steps": STEPS, "guidance_scale": 2.0}
    marks = model.verify(pictures[0], caption, false_alarm_rate=0.05)
    captions = model.caption(pictures)
    again = model.reconstruct(z[:1], **drawing).images[0]
    composed = model.compose(z[:1], z[1:], *KEPT, "trailing", **drawing).images[0]
    written = [(folder / f"{at}.txt").read_text(encoding="utf-8") for at in range(3)]
    wrong = [one.supported is False for one in marks]
    compared = {
        "captions of a batch": texts(outputs, "captions") == captions[:2],
        "marks": [one["text"] for one in json.loads(texts(outputs, "marks")[0])]
        == [one.text for one in marks],
        "unsupported sentences": texts(outputs, "unsupported") == [str(sum(wrong))],
        "supported text": texts(outputs, "supported")
        == [" ".join(one.text for one, no in zip(marks, wrong, strict=True) if not no)],
        "reconstruction": same(comfyui.picture(outputs["reconstructed"]["images"][0]), again),
        "composition": same(comfyui.picture(outputs["composed"]["images"][0]), composed),
        "caption files": written == [f"ohwx, {one}\n" for one in captions],
        "report": texts(outputs, "report")[0].startswith(
            "3 captions written, 0 images left as they are, 1 failed"
        ),
        "Cancel": cancelled(comfyui, names[0]),
    }
    for name, agrees in compared.items():
        print(f"{name}: {'as expected' if agrees else 'DIFFERS'}")
    return all(compared.values())


def same(a: Image.Image, b: Image.Image) -> bool:
    """Whether two images agree but for ComfyUI's cut to 8 bits, which does not round."""
    return bool(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1)


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1], Path(sys.argv[2])) else 1)
