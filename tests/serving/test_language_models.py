"""The service with language models whose layers keep something else than keys and values."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from tests import launcher
from tests.checkpoints.parts import diffusion_folder, florence_folder, language_model_folder
from tests.serving.conftest import START_SECONDS, Server, data_url, scene
from tests.serving.test_cancellation import SEEDS, count_rows, embeddings, run_jobs
from tests.shared import free_port

from vlv.pipeline import VLV
from vlv.serving.worker.jobs import CaptionJob, CaptionResult, Job

PICTURE = Image.new("RGB", (50, 40), "red")


def model_with(kind: str, folder: Path) -> Path:
    """A model folder whose language model is of this type."""
    parts = [
        florence_folder(folder / "florence"),
        diffusion_folder(folder / "diffusion"),
        language_model_folder(folder / kind, kind),
    ]
    model = VLV.from_components(*parts, num_queries=6, decoder_image_size=32)
    model.save_pretrained(folder / "model")
    return folder / "model"


def test_linear_attention_is_served(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Greedy, searched, drawn and streamed captions; `no_worker_dies` checks that it goes on."""
    folder = model_with("qwen3_5_text", tmp_path)
    model = VLV.from_pretrained(folder)
    server = serve("--model", str(folder))
    body = {"image": data_url(PICTURE), "max_new_tokens": 6}
    for beams in (1, 3):
        answer = server.post("/v1/vlv/caption", **body, num_beams=beams)
        expected = model.caption(PICTURE, num_beams=beams, max_new_tokens=6, drop_unfinished=False)
        assert [answer.json()["caption"]] == expected
    drawn = [server.post("/v1/vlv/caption", **body, temperature=2.0, seed=3) for _ in range(2)]
    assert [one.status_code for one in drawn] == [200, 200]
    assert drawn[0].json()["caption"] == drawn[1].json()["caption"]
    streamed = server.post("/v1/vlv/caption", **body, stream=True)
    assert streamed.status_code == 200 and streamed.text.count("data:") > 2


def test_a_cancelled_beam_search_of_linear_attention_stops_no_other(tmp_path: Path) -> None:
    model = VLV.from_pretrained(model_with("qwen3_5_text", tmp_path))
    settings = {"num_beams": 3, "max_new_tokens": 12, "min_new_tokens": 12}
    jobs: list[Job] = [
        CaptionJob(
            embeddings(model, seed), temperature=0.0, top_p=1.0, seed=0, stream=False, **settings
        )
        for seed in SEEDS
    ]
    with count_rows(model.caption_decoder.lm) as passes:
        results, _ = run_jobs(model, jobs, lambda: len(passes) == 4)
    assert passes == [9] * 4 + [6] * (len(passes) - 4)
    scenes = [scene(SEEDS[0]), scene(SEEDS[2])]
    expected = model.caption(scenes, drop_unfinished=False, **settings)
    captions = [results[0], results[2]]
    assert [one.caption.text for one in captions if isinstance(one, CaptionResult)] == expected


def test_a_language_model_with_another_cache_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = model_with("mamba", tmp_path)
    path = folder / "caption_decoder" / "language_model" / "config.json"
    config = json.loads(path.read_text())
    for name in ("num_attention_heads", "num_key_value_heads"):  # a published one has no such
        del config[name]
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "vlv.cli", "serve", "--port", str(free_port())]
    ran = launcher.run(
        [*command, "--model", str(folder)], capture_output=True, text=True, timeout=START_SECONDS
    )
    assert ran.returncode == 2  # as that of `vlv caption`
    assert ran.stderr.splitlines()[-1].startswith(
        "vlv: language models of the type mamba keep their states in a cache of their own, "
        "with which no captions can be written; take one"
    )
