"""Work of different kinds side by side in the model's process."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.serving.conftest import Server, data_url, scene
from tests.shared import until

from vlv.serving.worker.jobs import Heartbeat
from vlv.serving.worker.watchdog import Watchdog

IMAGE = data_url(scene(3))
# `vlv serve`, whose worker takes the seconds that a file contains for each layer of the language
# model. The worker imports the module `slow_machine` as it finds it.
SLOW_SERVER = """
import sys
sys.path.insert(0, {folder!r})
import slow_machine
import vlv.serving.engine
vlv.serving.engine.run_worker = slow_machine.run_worker
from vlv.cli.app import main
main()
"""
SLOW_MACHINE = """
import time
from pathlib import Path
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from vlv.serving.worker import process

def run_worker(*args):
    def slow(*args, mlp=Qwen2MLP.forward):
        time.sleep(float(Path({pace!r}).read_text()))
        return mlp(*args)

    Qwen2MLP.forward = slow
    process.run_worker(*args)
"""
SENTENCE = "On a brown floor lit from the right, a small matte blue sphere is at the back left. "


def test_an_image_and_a_verification_side_by_side_end_no_worker(server: Server) -> None:
    """The fixture `no_worker_dies` checks it: the image is done while the verification runs."""
    with ThreadPoolExecutor(2) as threads:
        image = threads.submit(server.post, "/v1/vlv/reconstruct", image=IMAGE)
        until(lambda: image.done() or server.metric("vlv_running") == 1)
        verified = threads.submit(
            server.post, "/v1/vlv/verify", image=IMAGE, caption=SENTENCE.strip()
        )
        assert [image.result().status_code, verified.result().status_code] == [200, 200]


@pytest.mark.parametrize(
    ("caption", "counted"),
    [("One. " * 33, "33 sentences"), ("a, " * 600, "tokens"), ("a red cube " * 350, "tokens")],
)
def test_the_length_of_a_verified_caption_is_limited(
    server: Server, caption: str, counted: str
) -> None:
    answer = server.post("/v1/vlv/verify", image=IMAGE, caption=caption.strip())
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "caption_too_long")
    assert error["param"] == "caption"
    assert counted in error["message"] and "at most" in error["message"]


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-12])
@pytest.mark.parametrize("top_p", [1.0, 1e-300])
def test_the_lowest_temperature_gives_the_most_likely_caption(
    server: Server, temperature: float, top_p: float
) -> None:
    expected = server.post("/v1/vlv/caption", image=IMAGE).json()
    sampled = server.post("/v1/vlv/caption", image=IMAGE, temperature=temperature, top_p=top_p)
    assert sampled.json() == expected


def test_a_stalled_step_differs_from_a_long_load_and_from_idleness() -> None:
    watchdog = Watchdog(stall_seconds=3)

    def seconds(count: int, *, passes: int, busy: bool) -> str | None:
        for _ in range(count):
            watchdog.tick()
            watchdog.record(Heartbeat(passes, busy))
        return watchdog.failure

    assert seconds(100, passes=0, busy=False) is None
    watchdog.ready = True
    assert seconds(100, passes=0, busy=False) is None
    assert seconds(2, passes=0, busy=True) is None
    assert seconds(2, passes=1, busy=True) is None
    assert "more than 3 s" in str(seconds(2, passes=1, busy=True))
    assert not watchdog.unresponsive


def test_a_process_that_is_silent_is_unresponsive_and_then_replaced() -> None:
    watchdog = Watchdog(stall_seconds=1000)
    watchdog.ready = True

    def silent(seconds: int) -> None:
        for _ in range(seconds):
            watchdog.tick()

    silent(3)
    assert not watchdog.unresponsive and watchdog.failure is None
    watchdog.record(Heartbeat(0, False))
    silent(4)
    assert watchdog.unresponsive and watchdog.failure is None
    silent(11)
    assert "no heartbeat arrived for 15 s" in str(watchdog.failure)
    watchdog.record(Heartbeat(0, False))
    assert not watchdog.unresponsive and watchdog.failure is None


@pytest.mark.slow
def test_a_slow_machine_differs_from_one_that_hangs(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """The first pass takes longer than the limit, each of its four layers does not."""
    pace = tmp_path / "pace"
    pace.write_text("1.25")
    (tmp_path / "slow_machine.py").write_text(SLOW_MACHINE.format(pace=str(pace)))
    program = ("-c", SLOW_SERVER.format(folder=str(tmp_path)))
    server = serve("--stall-seconds", "4", program=program)
    begun = time.monotonic()
    assert server.post("/v1/vlv/caption", image=IMAGE, max_new_tokens=1).status_code == 200
    assert time.monotonic() - begun > 5
    server.check_worker()
    pace.write_text("1000")
    with ThreadPoolExecutor(1) as threads:
        hangs = threads.submit(server.post, "/v1/vlv/caption", image=IMAGE, max_new_tokens=1)
        until(lambda: server.metric("vlv_worker_restarts_total") == 1)
        server.restarts = 1
        pace.write_text("0")
        assert hangs.result().status_code == 200


@pytest.mark.slow
def test_a_hundred_mixed_requests_end_no_worker(server: Server) -> None:
    """Captions, beam searches, images, compositions, verifications and encodings at default
    settings, each sent while others run, some cancelled; `no_worker_dies` checks it.
    """
    rng = random.Random(0)
    requests: list[tuple[str, dict[str, object]]] = [
        ("caption", {"image": IMAGE}),
        ("caption", {"image": IMAGE, "temperature": 1.0, "seed": 3}),
        ("caption", {"image": IMAGE, "num_beams": 4}),
        ("reconstruct", {"image": IMAGE}),
        ("reconstruct", {"text": "a red cube"}),
        ("compose", {"a": {"image": IMAGE}, "b": {"image": IMAGE}, "keep_a": 40, "keep_b": 30}),
        ("verify", {"image": IMAGE, "caption": SENTENCE.strip()}),
        ("encode", {"image": IMAGE}),
    ]
    limit = threading.Semaphore(6)

    def ask(at: int) -> int:
        path, body = requests[at % len(requests)]
        cancels = at % 9 == 0
        with limit:
            try:
                answer = server.client.post(
                    f"/v1/vlv/{path}", json=body, timeout=0.5 if cancels else 120
                )
            except Exception:
                assert cancels
                return 200
            return answer.status_code

    order = rng.sample(range(100), 100)
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, order)) == {200}
    until(lambda: server.metric("vlv_slots_used") == 0)


def test_the_process_of_the_server_loads_no_torch() -> None:
    """The messages between the processes hold records of models/ and verification/ too."""
    code = (
        "import sys, vlv.serving.app, vlv.serving.server; "
        "print(sorted({'torch', 'transformers', 'diffusers'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
