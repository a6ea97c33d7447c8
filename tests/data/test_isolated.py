"""Decoding in child processes: the same pictures, and no image costs another anything."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from tests.data.golden import GOLDENS, encoded, png, smooth
from tests.data.heif import SMOOTH, tiled
from tests.data.malformed import malformed, many_scans
from tests.shared import until

from vlv.data import isolated
from vlv.data.images import MAX_FILE_BYTES, MAX_PIXELS, REASONS, load_image
from vlv.data.isolated import DecodingPool
from vlv.errors import ImageError, VLVError

MEGABYTE = 1024 * 1024
PICTURE = smooth()
FILE = encoded(Image.fromarray(PICTURE), "PNG")
WAIT = 120  # seconds until a test that hangs has failed
ENDLESS = many_scans(512, 200_000)  # decodes for minutes


@pytest.fixture
def pool() -> Iterator[DecodingPool]:
    with DecodingPool() as pool:
        yield pool


def children() -> list[psutil.Process]:
    """The decoders that this process has, ended ones left out."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one too
            if "vlv.data.decoder" in child.cmdline():
                found.append(child)
    return found


def shows(future: Future[Image.Image]) -> bool:
    return np.array_equal(np.asarray(future.result(WAIT)), PICTURE)


def refusal(future: Future[Image.Image]) -> ImageError:
    error = future.exception(WAIT)
    assert isinstance(error, ImageError)
    assert error.reason in REASONS
    return error


def test_the_same_pictures_as_in_this_process(pool: DecodingPool) -> None:
    futures = [(pool.submit(data), load_image(data)) for _, data, _ in GOLDENS]
    for future, expected in futures:
        assert future.result(WAIT).mode == "RGB"
        np.testing.assert_array_equal(np.asarray(future.result()), np.asarray(expected))


def test_the_same_refusals_as_in_this_process(pool: DecodingPool, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(FILE[:80])
    sources: list[str | Path | bytes] = [
        b"",
        b"text",
        FILE[:80],
        png(7072, 7072, 8, 2, b""),
        bytes(MAX_FILE_BYTES + 1),
        tmp_path / "bad.png",
        str(tmp_path / "missing ö.png"),
        tmp_path,
    ]
    for source in sources:
        with pytest.raises(ImageError) as expected:
            load_image(source)
        found = refusal(pool.submit(source))
        assert (found.reason, str(found)) == (expected.value.reason, str(expected.value))


def test_the_largest_picture_comes_back_whole(pool: DecodingPool) -> None:
    image = pool.decode(encoded(Image.new("1", (MAX_PIXELS, 1), 1), "PNG"))
    assert image.size == (MAX_PIXELS, 1)
    assert image.getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("kind", ["jpeg", "heic"])
@pytest.mark.parametrize("megapixels", [12, pytest.param(24, marks=pytest.mark.slow), 48])
def test_photographs_of_phones(kind: str, megapixels: int, tmp_path: Path) -> None:
    side = {12: (4032, 3024), 24: (5712, 4284), 48: (8064, 6048)}[megapixels]
    if kind == "heic":
        data = tiled(*side)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        rough = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
        data = encoded(Image.fromarray(rough).resize(side), "JPEG", exif=exif)
        side = side[::-1]
    path = tmp_path / "photograph"
    path.write_bytes(data)
    # The default memory; seconds say nothing of a machine that runs other tests, too.
    with DecodingPool(workers=1, timeout=WAIT) as pool:
        assert pool.decode(path).size == side


def test_good_pictures_after_heic_are_not_lost(tmp_path: Path) -> None:
    files = [tiled(2048, 1536), SMOOTH, encoded(Image.new("RGB", (1600, 1200)), "JPEG")]
    paths = [tmp_path / str(place) for place in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    with DecodingPool(timeout=WAIT) as pool:
        futures = [pool.submit(path) for path in paths * 16]
        sizes = Counter(future.result(WAIT).size for future in futures)
    assert sizes == {(2048, 1536): 16, (40, 24): 16, (1600, 1200): 16}


def test_a_higher_cap_comes_with_the_memory_for_it() -> None:
    large = encoded(Image.new("RGB", (9504, 6336)), "JPEG")
    with DecodingPool(workers=1, timeout=WAIT, max_pixels=100_000_000) as pool:
        assert pool.decode(large).size == (9504, 6336)
    with DecodingPool(workers=1) as pool:
        assert refusal(pool.submit(large)).reason == "too-many-pixels"


def test_paths_are_relative_to_where_the_caller_is(
    pool: DecodingPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shows(pool.submit(FILE))
    (tmp_path / "scene.png").write_bytes(FILE)
    monkeypatch.chdir(tmp_path)
    assert shows(pool.submit("scene.png"))


def test_children_are_few_light_and_start_when_they_are_needed() -> None:
    with DecodingPool(workers=2) as pool:
        assert children() == []
        assert all(shows(future) for future in [pool.submit(FILE) for _ in range(20)])
        assert 1 <= len(children()) <= 2
        for child in children():
            libraries = " ".join(region.path for region in child.memory_maps())
            assert "numpy" in libraries
            assert "torch" not in libraries
    assert children() == []


def test_an_image_that_takes_too_long_costs_itself_alone() -> None:
    with DecodingPool(workers=1, timeout=1) as pool:
        good, endless, after = pool.submit(FILE), pool.submit(ENDLESS), pool.submit(FILE)
        assert shows(good)
        assert refusal(endless).reason == "too-slow"
        assert "1 seconds of processor time" in str(endless.exception())
        assert shows(after)


def test_a_machine_that_is_busy_with_others_refuses_no_picture() -> None:
    with DecodingPool(workers=1, timeout=1) as pool:
        assert shows(pool.submit(FILE))
        [child] = children()
        child.suspend()
        late = pool.submit(FILE)
        time.sleep(2)
        child.resume()
        assert shows(late)
        assert children() == [child]


def test_an_image_that_takes_too_much_memory_costs_itself_alone() -> None:
    with DecodingPool(workers=1, memory=60 * MEGABYTE) as pool:
        large = encoded(Image.new("RGB", (6000, 6000)), "PNG")
        futures = [pool.submit(data) for data in (FILE, large, FILE, large, large, FILE)]
        assert [shows(futures[place]) for place in (0, 2, 5)] == [True] * 3
        assert {refusal(futures[place]).reason for place in (1, 3, 4)} == {"too-much-memory"}


@pytest.mark.parametrize("format", ["WEBP", "JPEG", "GIF"])
def test_codecs_that_run_out_of_memory_are_not_taken_for_corrupt_files(format: str) -> None:
    data = encoded(Image.new("RGB", (4000, 4000)), format, progressive=True)
    with DecodingPool(workers=1, memory=75 * MEGABYTE) as pool:
        assert refusal(pool.submit(data)).reason == "too-much-memory"


@pytest.mark.parametrize("fatal", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_costs_one_image(fatal: signal.Signals) -> None:
    with DecodingPool(workers=1, timeout=WAIT) as pool:
        assert shows(pool.submit(FILE))
        [first] = children()
        victim, after = pool.submit(ENDLESS), pool.submit(FILE)
        crash(first, fatal)
        # The image before may have been the cause: another child tries, which has seen none.
        until(lambda: children() not in ([], [first]), WAIT)
        [second] = children()
        crash(second, fatal)
        assert refusal(victim).reason == "crashed"
        assert shows(after)
        assert children() not in ([first], [second])


def test_a_crash_that_an_image_before_caused_costs_nothing() -> None:
    with DecodingPool(workers=1, timeout=WAIT) as pool:
        assert shows(pool.submit(FILE))
        [child] = children()
        before = child.cpu_times().user
        slow = pool.submit(many_scans(512, 20000))
        crash(child, signal.SIGKILL, before)
        assert slow.result(WAIT).size == (512, 512)


def crash(child: psutil.Process, fatal: signal.Signals, before: float | None = None) -> None:
    """While it decodes; before: its CPU time when it had nothing to do."""
    before = child.cpu_times().user if before is None else before
    until(lambda: child.cpu_times().user > before + 0.2 and child.status() == "running", WAIT)
    child.send_signal(fatal)


def test_a_child_that_dies_while_it_waits_costs_nothing() -> None:
    with DecodingPool(workers=1) as pool:
        assert shows(pool.submit(FILE))
        [child] = children()
        child.kill()
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, WAIT)
        assert shows(pool.submit(FILE))


def test_a_child_that_stands_still_is_replaced() -> None:
    with DecodingPool(workers=1, timeout=0.3) as pool:
        assert shows(pool.submit(FILE))
        [child] = children()
        child.suspend()
        still = pool.submit(FILE)
        assert refusal(still).reason == "too-slow"
        assert "within 3.6 seconds" in str(still.exception())
        assert shows(pool.submit(FILE))


def test_a_decoder_that_starts_too_late_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "_START_SECONDS", 0.0)  # a decoder may be as quick as this test
    with DecodingPool(workers=1) as pool:
        error = pool.submit(FILE).exception(WAIT)
        assert isinstance(error, VLVError) and "did not start within" in str(error)
        assert children() == []


def test_closing_does_not_wait_for_images() -> None:
    with DecodingPool(workers=2, timeout=WAIT) as pool:
        assert shows(pool.submit(FILE))
        futures = [pool.submit(ENDLESS) for _ in range(5)]
        until(lambda: sum(future.running() for future in futures) == 2, WAIT)
        pool.close()
        assert all(isinstance(error_of(future), CancelledError) for future in futures)
        assert children() == []
        with pytest.raises(RuntimeError):
            pool.submit(FILE)


def error_of(future: Future[Image.Image]) -> BaseException | None:
    try:
        return future.exception(WAIT)
    except CancelledError as error:
        return error


def test_what_waits_can_be_cancelled() -> None:
    with DecodingPool(workers=1, timeout=2) as pool:
        first, second, third = pool.submit(ENDLESS), pool.submit(ENDLESS), pool.submit(FILE)
        assert second.cancel()
        assert shows(third)
        assert refusal(first).reason == "too-slow"


def test_an_event_loop_goes_on_while_images_are_decoded(pool: DecodingPool) -> None:
    async def decode_all() -> tuple[list[Image.Image], int]:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        turning = asyncio.create_task(turn())
        futures = [asyncio.wrap_future(pool.submit(FILE)) for _ in range(8)]
        images = await asyncio.gather(*futures)
        turning.cancel()
        return images, turns

    images, turns = asyncio.run(decode_all())
    assert len(images) == 8
    assert turns > 8


ORPHANING = """
import os, signal, sys
from vlv.data.isolated import DecodingPool

# Without the guard that multiprocessing asks of scripts.
pool = DecodingPool(workers=2, timeout=1)
good, endless = [open(path, "rb").read() for path in sys.argv[1:]]
pool.decode(good)
pool.submit(endless), pool.submit(endless)
while len(pool._children) < 2:
    pass
pool.submit
print(*[child._process.pid for child in pool._children], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    good, endless = tmp_path / "good.png", tmp_path / "endless.jpg"
    good.write_bytes(FILE)
    endless.write_bytes(ENDLESS)
    ran = subprocess.run(
        [sys.executable, "-c", ORPHANING, good, endless], capture_output=True, text=True
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    pids = [int(pid) for pid in ran.stdout.split()]
    assert len(pids) == 2
    until(lambda: not any(map(is_decoder, pids)), WAIT)


def is_decoder(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "vlv.data.decoder" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def outcomes(seeds: range) -> Counter[str]:
    """Every file through a pool as bulk jobs do it; "ok" or the reason of each refusal."""
    counted: Counter[str] = Counter()
    waiting: deque[Future[Image.Image]] = deque()
    with DecodingPool() as pool:
        for seed in seeds:
            waiting.append(pool.submit(malformed(seed)[1]))
            while len(waiting) > 8 or (waiting and seed == seeds[-1]):
                error = waiting.popleft().exception(WAIT)
                assert error is None or isinstance(error, ImageError)
                counted[error.reason if error else "ok"] += 1
        assert shows(pool.submit(FILE))
        for child in children():
            assert child.memory_info().rss < 200 * MEGABYTE
    return counted


@pytest.mark.parametrize(
    "seeds", [range(200), pytest.param(range(1000), marks=pytest.mark.slow)], ids=len
)
def test_malformed_files_cost_nothing_but_themselves(seeds: range) -> None:
    counted = outcomes(seeds)
    assert counted.total() == len(seeds)
    reasons = {"empty", "unknown-format", "too-many-pixels", "truncated", "corrupt"}
    # Few bytes can stand for as many pixels as are allowed, and for more memory than is.
    assert set(counted) <= {"ok", "too-much-memory", *reasons}
    assert {"ok", "unknown-format", "truncated", "corrupt"} <= set(counted)


def test_a_decoder_is_not_asked_again_after_half_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    large = encoded(Image.new("RGB", (100, 100)), "PNG")

    def short_of_memory(length: int) -> bytearray:
        if length == 3 * 100 * 100:
            raise MemoryError
        return bytearray(length)

    with DecodingPool(workers=1) as pool:
        assert shows(pool.submit(FILE))
        (first,) = children()
        monkeypatch.setattr(isolated, "bytearray", short_of_memory, raising=False)
        assert refusal(pool.submit(large)).reason == "too-much-memory"
        assert shows(pool.submit(FILE))
        assert first not in children()


def test_a_decoder_inherits_no_secrets(pool: DecodingPool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLV_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert shows(pool.submit(FILE))
    [child] = children()
    assert "secret" not in child.environ().values()
    assert child.environ()["LC_ALL"] == "C.UTF-8"
