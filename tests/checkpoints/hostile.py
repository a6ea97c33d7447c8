"""Model folders of strangers: what each does to a sound one, and a process that opens them all."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]

ENCODER, SETTINGS = "encoder/config.json", "encoder/vlv_encoder.json"
TOWER, VAE, UNET = "text_tower/config.json", "vae/config.json", "unet/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
LM = "caption_decoder/language_model/config.json"
LM_FOLDER = "caption_decoder/language_model"
PSI = "caption_decoder/vlv_caption_decoder.json"
TOKENIZERS = [f"{name}/tokenizer" for name in ("encoder", "text_tower", LM_FOLDER)]
NETWORKS = ["vlv.json", ENCODER, SETTINGS, TOWER, VAE, UNET, SCHEDULER, LM, PSI]
JSONS = [*NETWORKS, *(name + end for name in TOKENIZERS for end in (".json", "_config.json"))]
WEIGHTS = [
    "encoder/model.safetensors",
    "encoder/vlv_head.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "caption_decoder/psi.safetensors",
    f"{LM_FOLDER}/model.safetensors",
]
HUGE = (10**6, 10**18)


def put(name: str, text: str | bytes) -> Damage:
    """A file with other content; the folder's own files are links to those of a sound model."""

    def damage(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    return damage


def edit(name: str, keys: str, value: Any) -> Damage:
    """A JSON with another value at `keys`, such as "text_config.d_model"."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        *path, last = keys.split(".")
        inner = content
        for key in path:
            inner = inner[key]
        inner[last] = value
        put(name, json.dumps(content))(folder)

    return damage


def replaced(name: str, make: Callable[[Path], object]) -> Damage:
    """Something else in a file's place."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def cut(name: str, keep: float) -> Damage:
    """The beginning of a file."""

    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        put(name, data[: int(len(data) * keep)])(folder)

    return damage


def lying(name: str, change: Callable[[dict[str, Any]], None]) -> Damage:
    """A weights file whose header says something else than is so."""

    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        put(name, struct.pack("<Q", len(text)) + text + data[8 + length :])(folder)

    return damage


def sharded(file: str) -> Damage:
    """Weights in shards that lie elsewhere."""

    def damage(folder: Path) -> None:
        (folder / "encoder/model.safetensors").unlink()
        index = {"metadata": {}, "weight_map": {"a": file}}
        put("encoder/model.safetensors.index.json", json.dumps(index))(folder)

    return damage


def both(*damages: Damage) -> Damage:
    def damage(folder: Path) -> None:
        for one in damages:
            one(folder)

    return damage


def _first(header: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = header[next(name for name in header if name != "__metadata__")]
    return found


def _numbers() -> dict[str, Damage]:
    """Sizes that are huge, none, negative, or no numbers."""
    found: dict[str, Damage] = {}
    for name, keys in (
        (SETTINGS, "image_size"),
        (SETTINGS, "crop_size"),
        (SETTINGS, "num_queries"),
        (SETTINGS, "embedding_width"),
        (PSI, "conditioning_width"),
        (ENCODER, "text_config.d_model"),
        (ENCODER, "text_config.max_position_embeddings"),
        (ENCODER, "text_config.vocab_size"),
        (ENCODER, "text_config.encoder_layers"),
        (ENCODER, "text_config.decoder_attention_heads"),
        (ENCODER, "vision_config.window_size"),
        (ENCODER, "vision_config.max_temporal_embeddings"),
        (TOWER, "max_position_embeddings"),
        (TOWER, "num_hidden_layers"),
        (TOWER, "hidden_size"),
        (VAE, "layers_per_block"),
        (VAE, "latent_channels"),
        (UNET, "cross_attention_dim"),
        (UNET, "transformer_layers_per_block"),
        (SCHEDULER, "num_train_timesteps"),
        (SCHEDULER, "steps_offset"),
        (LM, "num_hidden_layers"),
        (LM, "vocab_size"),
        (LM, "hidden_size"),
        (LM, "num_attention_heads"),
        (LM, "num_key_value_heads"),
        ("vlv.json", "config.decoder_image_size"),
    ):
        for value in (*HUGE, -1, "many"):
            found[f"{keys} of {value} in {name}"] = edit(name, keys, value)
        if keys not in ("steps_offset", "transformer_layers_per_block"):
            found[f"{keys} of 0 in {name}"] = edit(name, keys, 0)
    for name in ("embed_dim", "depths", "num_heads", "num_groups", "patch_stride", "patch_size"):
        for value in ([10**7, 10**7], [0, 0], [1], 7):
            found[f"vision {name} of {value}"] = edit(ENCODER, f"vision_config.{name}", value)
    for value in ([10**7] * 2, [0, 0], [-8, 16], [8] * 5000, "x", None):
        found[f"unet blocks of {str(value)[:20]}"] = edit(UNET, "block_out_channels", value)
    for name, keys in ((SETTINGS, "image_mean"), (SETTINGS, "image_std")):
        for text in ("[NaN, 0.1, 0.1]", "[0.1]", "null"):
            value = json.loads(text)
            found[f"{keys} of {text}"] = edit(name, keys, value)
    found["deviation of 0"] = edit(SETTINGS, "image_std", [0, 0, 0])
    found["beta of NaN"] = edit(SCHEDULER, "beta_start", float("nan"))
    found["beta of 7"] = edit(SCHEDULER, "beta_end", 7)
    found["ten million betas"] = edit(SCHEDULER, "trained_betas", [0.5] * 100_000)
    found["heads that do not divide"] = edit(LM, "num_attention_heads", 3)
    found["theta of 0"] = edit(LM, "rope_parameters", {"rope_type": "default", "rope_theta": 0})
    found["an unknown schedule"] = edit(SCHEDULER, "beta_schedule", "none such")
    found["an unknown activation"] = edit(LM, "hidden_act", "none such")
    found["an unknown block"] = edit(UNET, "down_block_types", ["EvilBlock", "EvilBlock"])
    found["layer types without number"] = edit(LM, "layer_types", ["full_attention"] * 10**6)
    return found


def _code(evil: str) -> dict[str, Damage]:
    """Code, and names of code."""
    script = f"open({evil!r}, 'w').close()\nclass Evil: pass\n"
    found: dict[str, Damage] = {}
    for name, auto in (
        (LM, "AutoConfig"),
        (ENCODER, "AutoModel"),
        (TOWER, "AutoConfig"),
        (VAE, "AutoModel"),
        (f"{LM_FOLDER}/tokenizer_config.json", "AutoTokenizer"),
        ("encoder/tokenizer_config.json", "AutoTokenizer"),
        ("text_tower/tokenizer_config.json", "AutoProcessor"),
    ):
        module: Any = ["evil.Evil", None] if auto == "AutoTokenizer" else "evil.Evil"
        beside = str(Path(name).parent / "evil.py")
        found[f"{auto} of {name}"] = both(
            edit(name, "auto_map", {auto: module}), put(beside, script)
        )
        found[f"{auto} of {name} from a hub"] = edit(name, "auto_map", {auto: f"o/n--{module}"})
    found["a script in the folder"] = put("evil.py", script)
    found["a script in the encoder"] = put("encoder/modeling_florence2.py", script)
    found["auto_map in the folder's config"] = put(
        "config.json", '{"auto_map": {"AutoModel": "e.E"}}'
    )
    found["a custom pipeline"] = edit(LM, "custom_pipelines", {"x": {"impl": "evil.Evil"}})
    found["another class of U-Net"] = edit(UNET, "_class_name", "EvilModel")
    found["a class of a module"] = edit(SCHEDULER, "_class_name", ["evil", "Evil"])
    found["another class of VAE"] = edit(VAE, "_class_name", "os.system")
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        for name in (LM, ENCODER, TOWER):
            found[f"{key} of a hub in {name}"] = edit(name, key, "owner/kernel")
    found["a kernel of a hub within"] = edit(ENCODER, "text_config.attn_implementation", "o/k:f")
    found["kernels by part"] = edit(ENCODER, "attn_implementation", {"text_config": "o/k"})
    found["a package's kernel"] = edit(LM, "attn_implementation", "flash_attention_2")
    found["an adapter"] = put(
        f"{LM_FOLDER}/adapter_config.json", '{"base_model_name_or_path": "owner/name"}'
    )
    found["a strange quantization"] = edit(LM, "quantization_config", {"quant_method": "fp8"})
    for value in ("evil", "os.system", 7, ["float32"]):
        found[f"dtype {value}"] = edit(LM, "dtype", value)
    return found


def hostile_folders(evil: str, elsewhere: Path) -> dict[str, Damage]:
    """By name; `evil` is the file that code writes if it runs, `elsewhere` a sound model."""
    deep = "[" * 200_000 + "]" * 200_000
    found = _numbers() | _code(evil)
    for name in JSONS:
        found[f"deep {name}"] = put(name, '{"a": ' + deep + "}")
        found[f"shallowly deep {name}"] = put(name, '{"a": ' + "[" * 500 + "]" * 500 + "}")
        found[f"5,000 digits in {name}"] = put(name, '{"a": ' + "9" * 5000 + "}")
        for text in ("[]", "null", "{"):
            found[f"{text or 'nothing'} as {name}"] = put(name, text)
        found[f"a pipe as {name}"] = replaced(name, os.mkfifo)
        found[f"a link to outside as {name}"] = replaced(
            name, lambda path, to=elsewhere / name: path.symlink_to(to)
        )
        found[f"a folder as {name}"] = replaced(name, Path.mkdir)
    for name in ("vlv.json", LM, SCHEDULER, TOKENIZERS[2] + ".json"):
        found[f"a million lists in {name}"] = put(name, '{"a": [' + "[]," * 3_000_000 + "1]}")
    for name in WEIGHTS:
        found[f"no {name}"] = lambda folder, name=name: (folder / name).unlink()
        found[f"nothing in {name}"] = put(name, "")
        found[f"a tenth of {name}"] = cut(name, 0.1)
        found[f"most of {name}"] = cut(name, 0.99)
        found[f"{name} of an endless header"] = put(name, struct.pack("<Q", 2**63) + b"{}")
        found[f"a deep header of {name}"] = put(
            name, struct.pack("<Q", 100_010) + b'{"a":' + b"[" * 100_005
        )
        found[f"a pipe as {name}"] = replaced(name, os.mkfifo)
        found[f"a device as {name}"] = replaced(name, lambda path: path.symlink_to("/dev/zero"))
        found[f"a link to outside as {name}"] = replaced(
            name, lambda path, to=elsewhere / name: path.symlink_to(to)
        )
        found[f"{name} of 10^12 values"] = lying(
            name, lambda header: _first(header).update(shape=[10**6, 10**6])
        )
        found[f"{name} of another type"] = lying(
            name, lambda header: _first(header).update(dtype="EVIL")
        )
        found[f"{name} beyond its end"] = lying(
            name, lambda header: _first(header).update(data_offsets=[0, 10**15])
        )
    for file in ("../vlv_head.safetensors", "/etc/passwd", "a/b", "..", "gone.safetensors", 7):
        found[f"a shard at {file}"] = sharded(file)  # type: ignore[arg-type]
    for name in TOKENIZERS:
        found[f"a large id in {name}"] = edit(
            f"{name}.json", "padding", {"strategy": {"Fixed": 10**12}}
        )
        found[f"half of {name}.json"] = cut(f"{name}.json", 0.5)
    found["a prompt of 10 MB"] = edit(SETTINGS, "prompt", "a " * 5_000_000)
    found["a prompt longer than the positions"] = edit(SETTINGS, "prompt", "a b " * 400)
    found["a template of 100 MB"] = put(f"{LM_FOLDER}/chat_template.jinja", "x" * 100_000_000)
    found["an unknown component"] = edit("vlv.json", "components", ["encoder", "evil"])
    found["components that are none"] = edit("vlv.json", "components", {"encoder": 1})
    found["a component that is missing"] = edit("vlv.json", "components", ["encoder", "verifier"])
    found["stages that are a list"] = edit("vlv.json", "provenance", {"stages": [1]})
    found["another format"] = edit("vlv.json", "format_version", 99)
    found["a part outside"] = _outside(elsewhere)
    found["an encoder of another kind"] = edit(ENCODER, "model_type", "bert")
    found["a language model of another kind"] = edit(LM, "model_type", "whisper")
    found["a text model of another kind"] = edit(ENCODER, "text_config.model_type", "qwen2")
    return found


def _outside(elsewhere: Path) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "encoder").rename(folder / "was")
        (folder / "encoder").symlink_to(elsewhere / "encoder")

    return damage


# Opens every folder that its first argument names, one a line, and uses every box of it; tells
# what came of each, and the most memory that it all took.
OPEN_ALL = """
import json, os, signal, sys, time
from pathlib import Path
from PIL import Image
from vlv.errors import VLVError
from vlv.pipeline import VLV

def use(folder):
    model = VLV.from_pretrained(folder)
    picture = Image.new("RGB", (40, 30), "red")
    for component in model.manifest.components:
        if component in ("verifier", "ood_detector"):
            getattr(model, component)
    model.caption(picture, max_new_tokens=2)
    model.reconstruct(picture, num_inference_steps=1)

def most():
    # Not of getrusage, which counts what the process that started this one had.
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

def late(*_):
    raise BaseException("took too long")

signal.signal(signal.SIGALRM, late)
use(sys.argv[2])  # imports, and what libraries keep
reported, slowest = {}, 0.0
for line in Path(sys.argv[1]).read_text().splitlines():
    signal.alarm(60)  # of a machine that others use too
    before, spent = most(), time.process_time()
    try:
        use(line)
        reported[line] = ["opened", ""]
    except VLVError as error:
        reported[line] = [type(error).__name__, str(error)]
    except BaseException as error:
        reported[line] = ["FAULT", repr(error)[:500]]
    signal.alarm(0)
    after = most()
    reported[line] += [time.process_time() - spent, after - before]
print(json.dumps({"reported": reported, "memory": after * 1024}))
"""
