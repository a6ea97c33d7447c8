"""Captions without pictures, from which the caption decoder learns beside pictures."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.families.tiny_families import TINY_FAMILIES
from tests.tiny import build_vlv
from tests.training.conftest import Workshop
from torch import Tensor

from vlv.errors import ConfigError, TrainingError
from vlv.models.encoder import TASK_PROMPTS
from vlv.models.model_config import VLVConfig
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)
from vlv.training.loop import train
from vlv.training.registry import build_stage
from vlv.training.samples.texts import TextsConfig, open_texts
from vlv.world.language import caption_counts
from vlv.world.scene import sample_scene

SCENES = {"split": "unseen-pairs", "first_seed": 40, "count": 30}


def batch_of(stage: Any, size: int = 8) -> dict[str, Tensor]:
    return torch.utils.data.default_collate([stage.samples.item(i, i) for i in range(size)])


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "captions.txt"
    path.write_text("A red cube.\n\n  Two green cones. \nthe floor is gray\n", "utf-8")
    return path


def test_a_share_of_the_captions_comes_from_texts(workshop: Workshop, lines: Path) -> None:
    sources = [{"file": str(lines)}, SCENES, {"split": "unseen-counts", "count": 7}]
    config = workshop.config("stage2", texts=sources, text_share=0.25)
    samples: Any = build_stage("stage2", config).samples
    plain: Any = build_stage("stage2", workshop.config("stage2")).samples
    of_text = 0
    for at in range(400):
        item, other = samples.item(at, at % 32), plain.item(at, at % 32)
        same = torch.equal(item["caption_ids"], other["caption_ids"])
        assert same != bool(item["of_text"])
        of_text += int(item["of_text"])
        # All else is as without texts.
        assert item.keys() - other.keys() == {"of_text", "text_ids"}
        assert all(torch.equal(item[k], other[k]) for k in other if "caption" not in k)
    assert of_text / 400 == pytest.approx(0.25, abs=0.06)


def test_a_scene_is_read_in_one_caption_and_written_in_another(workshop: Workshop) -> None:
    config = workshop.config("stage2", texts=[SCENES], text_share=0.9)
    stage: Any = build_stage("stage2", config)
    texts, tower = stage.samples._texts, stage.objective.text_tower
    scenes = [sample_scene(40 + number, "unseen-pairs") for number in range(30)]
    seen, different = set(), 0
    for position in range(60):
        written, item = texts.at(position)
        if written is None:
            continue
        read = tower.tokenizer.decode(item["text_ids"], skip_special_tokens=True)
        spaced = " ".join(written.lower().split())
        (number,) = [
            at
            for at, scene in enumerate(scenes)
            if caption_counts(written, scene)["claims"] == caption_counts(written, scene)["true"]
            and caption_counts(written, scene)["objects_found"] == len(scene.objects)
        ][:1] or [None]
        seen.add(number)
        different += read.replace(" ", "") != spaced.replace(" ", "")
    assert None not in seen and len(seen) > 10
    assert different > 40
    # By seed and position alone, in any process.
    copy = pickle.loads(pickle.dumps(texts))
    assert all(copy.at(at)[0] == texts.at(at)[0] for at in (59, 3, 2**40))


def test_lines_that_would_be_cut_are_left_out(
    workshop: Workshop, lines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tower = build_stage("stage2", workshop.config("stage2")).objective.text_tower
    lines.write_text(lines.read_text() + "a red cube " * 100 + "\n")
    texts = open_texts([TextsConfig(file=lines)], 0.5, 0, tower.prompt_tokens)
    assert texts.lines == ("A red cube.", "Two green cones.", "the floor is gray")
    assert "1 of the 4 captions" in caplog.text
    lines.write_text("a red cube " * 100)
    with pytest.raises(ConfigError, match=r"no caption that the text encoder reads whole \(1 line"):
        open_texts([TextsConfig(file=lines)], 0.5, 0, tower.prompt_tokens)
    lines.write_bytes("ein grüner Würfel".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"is no text in UTF-8 .*; save it as UTF-8"):
        open_texts([TextsConfig(file=lines)], 0.5, 0, tower.prompt_tokens)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"texts": [SCENES]}, "texts and text_share belong together"),
        ({"text_share": 0.5}, "texts and text_share belong together"),
        ({"texts": [{}], "text_share": 0.5}, "set either file or split"),
        ({"texts": [{"split": "train"}], "text_share": 0.5}, "count belongs to split"),
        ({"texts": [{"split": "no", "count": 2}], "text_share": 0.5}, "there is no split no"),
        ({"texts": [SCENES], "text_share": 0.5, "captions_from": "z"}, "no embeddings z"),
        (
            {"texts": [{"file": "no.txt"}], "text_share": 0.5},
            r"no.txt cannot be read \(No such file or directory\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    workshop: Workshop, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        build_stage("stage2", workshop.config("stage2", **changes))
    assert "Value error" not in str(refused.value) and ": :" not in str(refused.value)


@pytest.mark.parametrize(
    ("family", "query_drop"),
    [
        ("stable-diffusion", None),
        ("stable-diffusion", "tail"),
        ("sd3", None),
        ("flux", None),
        ("sana", "tail"),
    ],
)
def test_rows_of_texts_read_the_c_of_the_text(
    workshop: Workshop, tmp_path: Path, lines: Path, family: str, query_drop: str | None
) -> None:
    """As each row alone: pictures from their own embeddings, texts from theirs, which are more."""
    changes: dict[str, Any] = {"texts": [{"file": str(lines)}, SCENES], "text_share": 0.5}
    changes["denoising_weight"] = 0.0
    if family != "stable-diffusion":
        changes["stage1"] = str(saved_family(family, tmp_path))
    if query_drop:
        changes["query_drop"] = query_drop
    stage: Any = build_stage("stage2", workshop.config("stage2", **changes))
    objective = stage.objective.eval()
    batch = batch_of(stage)
    assert batch["of_text"].any() and not batch["of_text"].all()
    kept = batch.get("kept_queries")
    single = []
    with torch.no_grad():
        together = objective(batch)[0]
        z = objective.embeddings(batch)
        for row, of_text in enumerate(batch["of_text"]):
            if of_text:
                c = objective.text_tower.encode_ids(batch["text_ids"][row : row + 1])
                read = c.tokens if c.mask is None else c.tokens[:, c.mask[0].bool()]
            else:
                read = objective.text_tower(z[row : row + 1]).tokens
                read = read if kept is None else read[:, kept[row]]
            length = batch["caption_length"][row : row + 1]
            ids = batch["caption_ids"][row : row + 1, : int(length)]
            single.append(objective.caption_decoder(read, ids, length))
    torch.testing.assert_close(together, torch.stack(single).mean(), atol=1e-5, rtol=0)


def saved_family(family: str, folder: Path) -> Path:
    texts, config = ["a red cube"], dict(TINY_FAMILIES[family])
    config |= {"decoder_image_size": 64, "encoder": {**config["encoder"], "image_size": 64}}
    model = build_vlv(
        VLVConfig.model_validate(config),
        encoder_tokenizer=train_florence_tokenizer(TASK_PROMPTS.values()),
        text_tokenizer=train_clip_tokenizer(texts),
        language_tokenizer=train_qwen2_tokenizer(texts),
    )
    model.save_pretrained(folder / family)
    return folder / family


def test_a_text_moves_the_caption_decoder_but_no_encoder(workshop: Workshop, lines: Path) -> None:
    changes = {"texts": [{"file": str(lines)}], "text_share": 0.5, "denoising_weight": 0.0}
    stage: Any = build_stage("stage2", workshop.config("stage2", **changes))
    objective, batch = stage.objective, batch_of(stage)
    z = objective.embeddings(batch).detach().requires_grad_()
    objective.embeddings = lambda _: z
    objective(batch)[0].backward()
    assert torch.equal(z.grad.abs().sum((1, 2)) > 0, ~batch["of_text"])
    assert float(objective.caption_decoder.psi[0].weight.grad.abs().sum()) > 0


def test_words_are_learned_that_no_picture_shows(workshop: Workshop, tmp_path: Path) -> None:
    """A word of the texts alone, which the caption decoder then writes of a text."""
    words = "snow on the floor"
    (tmp_path / "texts.txt").write_text(words)
    changes = {"max_train_steps": 60, "learning_rate": 5.0e-3, "lr_warmup_steps": 5}
    changes |= {"denoising_weight": 0.0, "trainable": ["psi", "language_model"]}
    said = {}
    for name, more in {
        "with": {"texts": [{"file": str(tmp_path / "texts.txt")}], "text_share": 0.75},
        "without": {},
    }.items():
        config = workshop.config(
            "stage2", output_dir=str(tmp_path / name), train_batch_size=8, **changes, **more
        )
        stage: Any = build_stage("stage2", config)
        train(stage)
        objective = stage.objective.eval()
        with torch.no_grad():
            c = objective.text_tower.encode_text([words])
            ids, lengths = objective.caption_decoder.tokenise([words], 96)
            said[name] = float(objective.caption_decoder(c.tokens, ids, lengths))
    assert said["with"] < 0.5 * said["without"], said


def test_a_run_goes_on_with_its_texts_and_no_others(
    workshop: Workshop, tmp_path: Path, lines: Path
) -> None:
    def run(name: str, steps: int) -> Path:
        config = workshop.config(
            "stage2",
            output_dir=str(tmp_path / name),
            texts=[{"file": str(lines)}, SCENES],
            text_share=0.5,
            lr_scheduler="constant",
            checkpointing_steps=1,
            max_train_steps=steps,
        )
        return train(build_stage("stage2", config))

    straight, _ = run("straight", 3), run("cut", 1)
    resumed = run("cut", 3)
    weights = "caption_decoder/psi.safetensors"
    assert (straight / weights).read_bytes() == (resumed / weights).read_bytes()
    lines.write_text("another line")
    with pytest.raises(TrainingError, match="data"):
        run("cut", 4)


def test_numbers_are_those_of_the_sources() -> None:
    texts = open_texts(
        [TextsConfig(split="train", count=3), TextsConfig(split="train", first_seed=9, count=2)],
        0.99,
        5,
        lambda given: np.zeros((len(given), 1)),  # type: ignore[arg-type, return-value]
    )
    written = {texts.at(position)[0] for position in range(80)} - {None}
    scenes = [sample_scene(seed, "train") for seed in (0, 1, 2, 9, 10)]
    true_of = {
        caption: [
            at
            for at, scene in enumerate(scenes)
            if caption_counts(caption, scene)["claims"] == caption_counts(caption, scene)["true"]
        ]
        for caption in written
        if caption
    }
    assert {at for found in true_of.values() for at in found} == {0, 1, 2, 3, 4}
    assert all(true_of.values())
