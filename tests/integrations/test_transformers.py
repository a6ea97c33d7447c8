"""`transformers` opens a model folder by its own doors, and captions as `VLV.caption` does."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny import CAPTIONS, plain, tiny_model_dir
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    Trainer,
    TrainingArguments,
    pipeline,
)

from vlv import VLV, load_image
from vlv.checkpoints.hub import EMBEDDED
from vlv.errors import CheckpointError, ConfigError
from vlv.evaluation.results import model_hash

__all__ = ["tiny_model_dir"]

PICTURES = [plain(color) for color in CAPTIONS]


@pytest.fixture(scope="module")
def captions(tiny_model_dir: Path) -> list[str]:
    found = VLV.from_pretrained(tiny_model_dir).caption(PICTURES)
    assert found == list(CAPTIONS.values())
    return found


@pytest.fixture(scope="module")
def piped(tiny_model_dir: Path) -> Any:
    return pipeline("image-text-to-text", model=str(tiny_model_dir))


@pytest.fixture(scope="module")
def opened(tiny_model_dir: Path) -> tuple[Any, Any]:
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir)
    return model, AutoProcessor.from_pretrained(tiny_model_dir)


def test_the_pipeline_writes_the_same_captions(piped: Any, captions: list[str]) -> None:
    assert [piped(one, text="")[0]["generated_text"] for one in PICTURES] == captions
    together = piped(images=PICTURES, text=[""] * len(PICTURES))
    assert [one["generated_text"] for one in together] == captions


def test_captions_that_are_cut_off_are_cleaned_the_same(piped: Any, tiny_model_dir: Path) -> None:
    (caption,) = VLV.from_pretrained(tiny_model_dir).caption(PICTURES[0], max_new_tokens=12)
    assert caption == "A red cube stands on the left."
    assert piped(PICTURES[0], text="", max_new_tokens=12)[0]["generated_text"] == caption


def test_a_text_begins_the_caption(piped: Any, tiny_model_dir: Path) -> None:
    begin = "A red"
    (caption,) = VLV.from_pretrained(tiny_model_dir).caption(PICTURES[0], forced_start=begin)
    assert piped(PICTURES[0], text=begin)[0]["generated_text"] == caption
    assert caption.startswith(begin)


def test_a_chat_gives_the_caption_of_its_last_picture(piped: Any, captions: list[str]) -> None:
    asked = [
        {"type": "image", "image": PICTURES[0]},
        {"type": "image", "image": PICTURES[1]},
        {"type": "text", "text": "Describe the image in one word."},
    ]
    chat = [{"role": "user", "content": asked}]
    (answer,) = piped(text=chat)
    assert answer["generated_text"][-1] == {"role": "assistant", "content": captions[1]}
    begun = [*chat, {"role": "assistant", "content": [{"type": "text", "text": "The light"}]}]
    (answer,) = piped(text=begun)
    assert answer["generated_text"][-1]["content"][0]["text"] == captions[1]
    with pytest.raises(ConfigError, match="no picture"):
        piped(text=[{"role": "user", "content": "Describe it."}])


@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_pictures_in_a_chat_are_seen_as_everywhere(
    opened: tuple[Any, Any], mode: str, tmp_path: Path
) -> None:
    _, processor = opened
    pixels = np.linspace(0, 40_000, 32 * 32).reshape(32, 32).astype(np.uint16)
    picture = Image.new("RGBA", (32, 32)) if mode == "RGBA" else Image.fromarray(pixels)
    picture.save(tmp_path / "picture.png")
    wanted = processor(images=load_image(tmp_path / "picture.png"))["pixel_values"]
    for source in (picture, str(tmp_path / "picture.png")):
        chat = [{"role": "user", "content": [{"type": "image", "image": source}]}]
        made = processor.apply_chat_template(chat, tokenize=True)
        assert torch.equal(made["pixel_values"], wanted)


def test_model_and_processor_write_the_same_captions(
    opened: tuple[Any, Any], captions: list[str]
) -> None:
    model, processor = opened
    rows = model.generate(**processor(images=PICTURES))
    assert processor.post_process_image_text_to_text(rows) == captions
    # Beginnings that differ in one batch, each with several captions.
    inputs = processor(images=PICTURES[:2], text=["", "The light"])
    made = model.generate(**inputs, num_return_sequences=2)
    texts = processor.post_process_image_text_to_text(made)
    assert texts[::2] == captions[:2] and len(texts) == 4


def test_settings_of_transformers_are_honoured(opened: tuple[Any, Any]) -> None:
    model, processor = opened
    inputs = processor(images=PICTURES[0])
    short = model.generate(**inputs, generation_config=GenerationConfig(max_new_tokens=3))
    assert short.shape == (1, 3)
    whole = model.generate(**inputs, num_beams=1, output_scores=True, return_dict_in_generate=True)
    assert len(whole.scores) == whole.sequences.shape[1]
    torch.manual_seed(1)
    drawn = model.generate(**inputs, do_sample=True, num_beams=1, temperature=30.0, top_k=0)
    assert drawn[0].tolist() != whole.sequences[0].tolist()


def test_forward_gives_embeddings_and_the_loss_of_captions(
    opened: tuple[Any, Any], tiny_model_dir: Path
) -> None:
    model, processor = opened
    own = VLV.from_pretrained(tiny_model_dir)
    ids, lengths = own.caption_decoder.tokenise(list(CAPTIONS.values()))
    beyond = torch.arange(ids.shape[1]) >= lengths[:, None]
    made = model(**processor(images=PICTURES), labels=ids.masked_fill(beyond, -100))
    z = own.encode(PICTURES)
    assert torch.equal(made.caption_embeddings, z)
    assert torch.equal(made.conditioning, own.condition(z).tokens)
    assert torch.allclose(made.loss, own.caption_decoder(own.read(z), ids, lengths))
    made.loss.backward()
    assert model.encoder.queries.grad is not None
    model.zero_grad()


def test_a_saved_model_opens_everywhere_and_has_a_card(
    opened: tuple[Any, Any],
    captions: list[str],
    tiny_model_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, processor = opened
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert VLV.from_pretrained(tmp_path / "model").caption(PICTURES) == captions
    assert model_hash(tmp_path / "model") == model_hash(tiny_model_dir)
    # The task's name in transformers 4. The warning of 5.23 about it cannot be formatted.
    with caplog.at_level(logging.ERROR, "transformers"):
        again = pipeline("image-to-text", model=str(tmp_path / "model"))
    assert again(PICTURES[0], text="")[0]["generated_text"] == captions[0]
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\n") and "pipeline_tag: image-to-text" in card
    decoder = sum(x.numel() for x in model.vlv.decoder.unet.parameters())
    assert f"| denoiser | {decoder:,} |" in card


def test_a_processor_that_was_saved_alone_opens(opened: tuple[Any, Any], tmp_path: Path) -> None:
    _, processor = opened
    processor.save_pretrained(tmp_path / "processor")
    again = AutoProcessor.from_pretrained(tmp_path / "processor")
    for name, made in again(PICTURES, text=["", "A", "The"]).items():
        assert torch.equal(made, processor(PICTURES, text=["", "A", "The"])[name])


def test_generation_settings_are_saved_with_the_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(tiny_model_dir)
    model.generation_config.num_beams, model.generation_config.max_new_tokens = 1, 2
    model.save_pretrained(tmp_path / "model")
    VLV.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "copy")
    for folder in ("model", "copy"):
        again = pipeline("image-text-to-text", model=str(tmp_path / folder))
        assert again(PICTURES[0], text="")[0]["generated_text"] == "A red"


def test_a_trainer_saves_beside_its_checkpoints(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(tiny_model_dir)
    processor = AutoProcessor.from_pretrained(tiny_model_dir)
    ids, _ = model.vlv.caption_decoder.tokenise([CAPTIONS["red"]])
    sample = {"pixel_values": processor(PICTURES[0])["pixel_values"][0], "labels": ids[0]}
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, save_steps=1, report_to="none", use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(model, arguments, train_dataset=[sample], processing_class=processor)
    trainer.train()
    held = sorted(path.name for path in (tmp_path / "checkpoint-1").iterdir())
    for _ in range(2):  # into a folder that is no model yet, then into one
        trainer.save_model()
        trainer.save_state()
    assert held == sorted(path.name for path in (tmp_path / "checkpoint-1").iterdir())
    assert (tmp_path / "trainer_state.json").is_file()
    assert not list(tmp_path.glob(".*"))
    trained = model.vlv.caption(PICTURES)
    for folder in (tmp_path, tmp_path / "checkpoint-1"):
        assert VLV.from_pretrained(folder).caption(PICTURES) == trained


def test_a_trainer_goes_on_from_its_checkpoint(
    tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def trainer(folder: str, steps: int) -> tuple[Any, Trainer]:
        torch.manual_seed(0)
        model = AutoModel.from_pretrained(tiny_model_dir)
        processor = AutoProcessor.from_pretrained(tiny_model_dir)
        ids, _ = model.vlv.caption_decoder.tokenise([CAPTIONS["red"]])
        sample = {"pixel_values": processor(PICTURES[1])["pixel_values"][0], "labels": ids[0]}
        arguments = TrainingArguments(
            str(tmp_path / folder),
            max_steps=steps,
            save_steps=2,
            lr_scheduler_type="constant",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        return model, Trainer(model, arguments, train_dataset=[sample] * 8)

    whole, at_once = trainer("whole", 4)
    at_once.train()
    _, first = trainer("parts", 2)
    first.train()
    parts, second = trainer("parts", 4)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 4
    names, others = whole.state_dict(), parts.state_dict()
    assert names.keys() == others.keys()
    for name, weight in names.items():
        assert torch.equal(weight, others[name]), name
    assert "keys in the checkpoint" not in caplog.text  # missing, or too many
    VLV.from_pretrained(tmp_path / "parts" / "checkpoint-4").caption(PICTURES)


def test_what_others_put_in_a_folder_is_not_replaced(
    opened: tuple[Any, Any], captions: list[str], tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "encoder").mkdir()
    with pytest.raises(ConfigError, match="no model folder and holds encoder"):
        opened[0].save_pretrained(tmp_path)
    (tmp_path / "encoder").rmdir()
    opened[0].save_pretrained(tmp_path)
    assert VLV.from_pretrained(tmp_path).caption(PICTURES) == captions
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_pushed_model_is_a_whole_model_folder(
    opened: tuple[Any, Any],
    captions: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import CommitInfo, HfApi, RepoUrl

    def create(hub: HfApi, name: str, **asked: Any) -> RepoUrl:
        assert asked == {"private": True, "exist_ok": True}
        return RepoUrl(f"https://huggingface.co/{name}")

    def upload(hub: HfApi, *, repo_id: str, folder_path: Path, **asked: Any) -> CommitInfo:
        shutil.copytree(folder_path, tmp_path / repo_id)
        return CommitInfo(
            commit_url=f"https://huggingface.co/{repo_id}/commit/0",
            commit_message=asked["commit_message"],
            commit_description="",
            oid="0",
        )

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    address = opened[0].push_to_hub("me/mine", private=True)
    assert address == "https://huggingface.co/me/mine/commit/0"
    assert VLV.from_pretrained(tmp_path / "me" / "mine").caption(PICTURES) == captions
    assert (tmp_path / "me" / "mine" / "README.md").is_file()


def test_a_push_that_the_hub_does_not_take_is_named(opened: tuple[Any, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"me/mine .*hf auth login"):
        opened[0].push_to_hub("me/mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization_config": {"bits": 4}}, "quantization='8bit'"),
        ({"max_memory": {0: "1GB"}}, "no use for max_memory"),
        ({"device_map": {"encoder": "cpu", "lm": "cuda"}}, "one device"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    tiny_model_dir: Path, arguments: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        AutoModel.from_pretrained(tiny_model_dir, **arguments)


def test_what_draws_follows_the_model(tiny_model_dir: Path) -> None:
    model = AutoModel.from_pretrained(tiny_model_dir)
    drawing: dict[str, Any] = {"seeds": [0], "num_inference_steps": 1}
    model.vlv.reconstruct(PICTURES[0], **drawing)
    model.to(torch.bfloat16)
    assert model.vlv.reconstruct(PICTURES[0], **drawing).images
    assert model.vlv.decoder.vae.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_dtype_has_its_old_name_too(tiny_model_dir: Path, name: str) -> None:
    model = AutoModel.from_pretrained(tiny_model_dir, **{name: torch.bfloat16})
    assert model.dtype == model.vlv.caption_decoder.lm.dtype == torch.bfloat16


def test_attention_is_that_which_is_asked_for(tiny_model_dir: Path, captions: list[str]) -> None:
    model = AutoModel.from_pretrained(tiny_model_dir, attn_implementation="eager")
    assert model.caption_decoder.lm.config._attn_implementation == "eager"
    assert model.vlv.caption(PICTURES) == captions


def test_steps_of_the_image_processor_are_those_that_are_asked_for(
    opened: tuple[Any, Any],
) -> None:
    _, processor = opened
    usual = processor(PICTURES)["pixel_values"]
    raw = processor(PICTURES, do_normalize=False, do_rescale=False)["pixel_values"]
    assert torch.equal(raw, raw.round()) and raw.max() == 255
    halves = processor(PICTURES, image_mean=[0.5] * 3, image_std=[0.5] * 3)["pixel_values"]
    assert torch.allclose(halves, raw / 127.5 - 1)
    scaled = processor(PICTURES, rescale_factor=1 / 127.5, do_normalize=False)["pixel_values"]
    assert torch.allclose(scaled, raw / 127.5)
    same = processor(PICTURES, do_resize=False, do_convert_rgb=True, padding=True)
    assert torch.equal(same["pixel_values"], usual)
    with pytest.raises(ConfigError, match="images of 32x32 pixels, not 40x32"):
        processor(plain("red", (40, 32)), do_resize=False)
    chat = [{"role": "user", "content": [{"type": "image", "image": PICTURES[0]}]}]
    asked = {"do_normalize": False, "do_rescale": False}
    made = processor.apply_chat_template(chat, tokenize=True, processor_kwargs=asked)
    assert torch.equal(made["pixel_values"], raw[:1])


@pytest.mark.parametrize(
    "argument",
    [
        {"size": {"height": 64, "width": 64}},
        {"do_convert_rgb": False},
        {"do_center_crop": True},
        {"padding": "max_length"},
        {"max_length": 8},
    ],
)
def test_a_processor_refuses_what_it_cannot_honour(opened: tuple[Any, Any], argument: dict) -> None:
    (name,) = argument
    with pytest.raises(ConfigError, match=f"cannot honour {name}="):
        opened[1](PICTURES, text="A", **argument)
    with pytest.raises(ConfigError, match=f"cannot honour {name}="):
        opened[1](text="A", **argument)


def test_steps_are_no_part_of_a_processor(tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="give do_normalize with each call"):
        AutoProcessor.from_pretrained(tiny_model_dir, do_normalize=False)


def test_wrong_inputs_are_named(opened: tuple[Any, Any]) -> None:
    model, processor = opened
    with pytest.raises(ConfigError, match="2 texts for 3 images"):
        processor(PICTURES, text=["", ""])
    with pytest.raises(ConfigError, match="pixel_values"):
        model.generate(input_ids=torch.tensor([[1]]))
    with pytest.raises(ConfigError, match="model folder"):
        AutoModel.from_config(model.config)


def test_the_model_of_the_package_opens_too() -> None:
    assert AutoConfig.from_pretrained(EMBEDDED["vlv-mini"]).model_type == "vlv"


def test_libraries_that_import_each_other_are_imported_after_vlv() -> None:
    """Peft imports models of transformers, as the `Trainer` of transformers imports peft."""
    code = "import vlv, peft; print('ok')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "ok\n", ran.stderr


def test_arguments_that_would_change_the_files_are_refused(
    opened: tuple[Any, Any], tmp_path: Path
) -> None:
    model, processor = opened
    for wrong in ({"dtype": torch.float16}, {"max_shrad_size": "1GB"}, {"variant": "fp16"}):
        for one in (model, processor):
            with pytest.raises(ConfigError, match="a VLV has no use for"):
                one.save_pretrained(tmp_path / "model", **wrong)
    with pytest.raises(ConfigError, match="no use for push_to_hub=True"):
        processor.save_pretrained(tmp_path / "model", push_to_hub=True)
    # Of several processes, one writes.
    model.save_pretrained(tmp_path / "model", is_main_process=False)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import vlv; from transformers import Trainer, pipeline",
        "import vlv; from transformers import pipeline",
        "from transformers import pipeline; import vlv",
        "import transformers, vlv; from transformers import AutoConfig, pipeline",
        "from transformers import AutoProcessor; import vlv; from transformers import pipeline",
    ],
)
def test_the_order_of_imports_does_not_matter(imports: str, tiny_model_dir: Path) -> None:
    code = f"{imports}\nprint(pipeline('image-text-to-text', model={str(tiny_model_dir)!r}).task)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "image-text-to-text\n", ran.stderr
