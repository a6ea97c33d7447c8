"""`vlv data curate` on metadata: conditions before any download."""

import errno
import json
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.curation.planted import digests, laion_metadata

from vlv.data.curation import links


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    laion_metadata(tmp_path / "laion")
    return tmp_path / "laion"


def rows_of(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    files = sorted(folder.glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def expected(row: dict) -> str | None:  # type: ignore[type-arg]
    """The reason of a row by the paper's filters, computed another way."""
    if min(row["WIDTH"], row["HEIGHT"]) <= 512:
        return "too-small"
    if not 0.5 <= row["WIDTH"] / row["HEIGHT"] <= 2:
        return "aspect-ratio"
    if row["pwatermark"] is None:
        return "no-watermark"
    return "watermark" if row["pwatermark"] >= 0.5 else None


def test_the_papers_filters_keep_and_drop_the_right_rows(
    vlv: Callable, metadata: Path, tmp_path: Path
) -> None:
    ran = vlv("data", "curate", metadata, tmp_path / "out", "--paper", "--json")
    assert ran.code == 0, ran.err
    rows = rows_of(metadata)
    reasons = [expected(row) for row in rows]
    assert rows_of(tmp_path / "out" / "urls") == [
        row for row, reason in zip(rows, reasons, strict=True) if reason is None
    ]
    dropped = rows_of(tmp_path / "out" / "dropped")
    assert [(one["url"], one["reason"]) for one in dropped] == [
        (row["URL"], reason) for row, reason in zip(rows, reasons, strict=True) if reason
    ]
    found = json.loads(ran.out)
    assert found["dropped"] == Counter(reason for reason in reasons if reason)
    assert found["samples"] == len(rows) and found["kept"] == reasons.count(None)
    assert all(one["value"] for one in dropped if not one["reason"].startswith("no-"))


def test_the_limits_of_the_paper_themselves(vlv: Callable, tmp_path: Path) -> None:
    sizes = [(513, 513), (512, 900), (600, 1200), (600, 1201), (1200, 600), (1201, 600)]
    width, height = (list(each) for each in zip(*sizes, strict=True))
    table = pa.table(
        {"url": [str(at) for at in range(8)], "width": [*width, 600, 600]}
        | {"height": [*height, 600, 600], "pwatermark": [0.0] * 6 + [0.5, 0.499]}
    )
    pq.write_table(table, tmp_path / "m.parquet")
    assert vlv("data", "curate", tmp_path / "m.parquet", tmp_path / "out", "--paper").code == 0
    assert [row["url"] for row in rows_of(tmp_path / "out" / "urls")] == ["0", "2", "4", "7"]


def test_the_command_for_img2dataset_reads_the_list(
    vlv: Callable, metadata: Path, tmp_path: Path
) -> None:
    ran = vlv("data", "curate", metadata, tmp_path / "out", "--where", "width > 512", "--json")
    words = shlex.split(json.loads(ran.out)["img2dataset"])
    given = dict(zip(words[1::2], words[2::2], strict=True))
    columns = pq.read_schema(tmp_path / "out" / "urls" / "00000.parquet").names
    assert words[0] == "img2dataset" and Path(given["--url_list"]) == tmp_path / "out" / "urls"
    assert given["--url_col"] == "URL" and given["--caption_col"] == "TEXT"
    assert {"pwatermark", "punsafe"} < set(json.loads(given["--save_additional_columns"]))
    assert set(json.loads(given["--save_additional_columns"])) < set(columns)


@pytest.mark.parametrize(
    ("columns", "condition", "kept"),
    [
        # LAION-2B-en-aesthetic by our names, Re-LAION, DataComp.
        ({}, "aesthetic >= 5 and watermark < 0.5 and unsafe < 0.9 and caption like '%cat%'", None),
        ({"AESTHETIC_SCORE": None, "URL": None, "TEXT": None}, "pwatermark < 2", 392),
        ({"WIDTH": None, "HEIGHT": None, "URL": None, "TEXT": None}, "width > 300", 200),
    ],
)
def test_columns_are_known_by_the_names_of_collections(
    vlv: Callable, tmp_path: Path, columns: dict[str, object], condition: str, kept: int | None
) -> None:
    urls = [f"https://host.example/{at}" for at in range(400)]
    if "WIDTH" in columns:
        columns = columns | {"original_width": np.arange(101, 501), "original_height": [9] * 400}
        columns |= {"uid": urls, "url": urls, "text": urls}
    elif "URL" in columns:
        columns = columns | {"url": urls, "caption": urls}
    laion_metadata(tmp_path / "m", files=1, **columns)
    ran = vlv("data", "curate", tmp_path / "m", tmp_path / "out", "--where", condition, "--json")
    assert ran.code == 0, ran.err
    rows = rows_of(tmp_path / "m")
    if kept is None:
        kept = sum(
            row["AESTHETIC_SCORE"] >= 5
            and row["pwatermark"] is not None
            and row["pwatermark"] < 0.5
            and row["punsafe"] < 0.9
            and "cat" in row["TEXT"]
            for row in rows
        )
    assert json.loads(ran.out)["kept"] == kept > 0


@pytest.mark.parametrize(
    ("condition", "code", "message"),
    [
        ('"it\'s" > 1', 2, "needs the column it's"),
        ("widht > 512", 2, "needs the column widht"),
        ("width >", 2, "is not a condition in SQL"),
        ("true; select 1", 2, "is not a condition in SQL"),
        ("", 2, "is not one condition"),
        ("width, height", 2, "is not one condition"),
        ("1=1) or (1=1) limit (3", 2, "has other clauses"),
        ("true) union select (true", 2, "has other clauses"),
        ("exists(select * from read_text('/etc/hostname'))", 2, "holds a query"),
        ("width in (select 1)", 2, "holds a query"),
        ("width > ?", 2, "has other clauses"),
        ("random() < 0.5", 2, "uses random"),
        ("now() is not null", 2, "uses now"),
        ("sum(width) > 5", 2, "looks at other rows"),
        ("row_number() over () < 5", 2, "looks at other rows"),
        ("TEXT > 5", 2, "cannot be applied"),
        ("CAST(TEXT AS INTEGER) > 5", 1, "cannot be applied"),
    ],
)
def test_a_condition_that_is_none_is_one_sentence(
    vlv: Callable, metadata: Path, tmp_path: Path, condition: str, code: int, message: str
) -> None:
    ran = vlv("data", "curate", metadata, tmp_path / "out", "--where", condition)
    assert ran.code == code and message in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not list((tmp_path / "out").glob("urls/*"))


def test_a_column_of_any_name_is_shown_as_it_is(vlv: Callable, tmp_path: Path) -> None:
    name = "it's || (SELECT 1)"
    urls = pa.array(["https://x.example/1", "https://x.example/2"])
    pq.write_table(pa.table({"url": urls, name: [1, 5]}), tmp_path / "m.parquet")
    condition = f'"{name}" > 2'
    ran = vlv("data", "curate", tmp_path / "m.parquet", tmp_path / "out", "--where", condition)
    assert ran.code == 0, ran.err
    assert [one["value"] for one in rows_of(tmp_path / "out" / "dropped")] == [f"{name} = 1"]


def test_a_mended_condition_runs_in_the_same_folder(
    vlv: Callable, metadata: Path, tmp_path: Path
) -> None:
    assert vlv("data", "curate", metadata, tmp_path / "out", "--where", "TEXT > 5").code == 2
    assert vlv("data", "curate", metadata, tmp_path / "out", "--where", "width > 5").code == 0
    ran = vlv("data", "curate", metadata, tmp_path / "out", "--where", "width > 6")
    assert ran.code == 2 and "another rules" in ran.err


def test_a_missing_column_is_named_with_its_other_names(vlv: Callable, tmp_path: Path) -> None:
    laion_metadata(tmp_path / "m", files=1, pwatermark=None)
    ran = vlv("data", "curate", tmp_path / "m", tmp_path / "out", "--paper")
    assert ran.code == 2 and "--paper needs the column watermark" in ran.err
    assert "pwatermark" in ran.err and "AESTHETIC_SCORE" in ran.err


def test_nsfw_and_a_blocklist(vlv: Callable, metadata: Path, tmp_path: Path) -> None:
    rows = rows_of(metadata)
    words = f"# words\nGUN\ncat 0\ndomain:host3.example\nhash:{rows[5]['hash']}\n"
    (tmp_path / "block.txt").write_text(words)
    ran = vlv(
        *("data", "curate", metadata, tmp_path / "out", "--drop-nsfw"),
        *("--blocklist", tmp_path / "block.txt"),
    )
    assert ran.code == 0, ran.err
    blocked = {
        row["URL"]
        for row in rows
        if " gun " in row["TEXT"]
        or row["TEXT"] == "A cat 0"
        or "host3.example" in row["URL"]
        or row["hash"] == rows[5]["hash"]
    }
    unsafe = {row["URL"] for row in rows if row["punsafe"] >= 0.5}
    dropped = {one["url"]: one["reason"] for one in rows_of(tmp_path / "out" / "dropped")}
    assert dropped == dict.fromkeys(blocked, "blocklist") | dict.fromkeys(unsafe, "nsfw")
    # A word is a whole word.
    kept = [row["TEXT"] for row in rows_of(tmp_path / "out" / "urls")]
    assert any("categories" in text for text in kept)


def test_nan_and_what_is_no_number_are_missing_values(vlv: Callable, tmp_path: Path) -> None:
    """For SQL, NaN is above every number; and a text among numbers must not end the job."""
    scores = [float("nan"), 4.0, 6.0, None]
    table = pa.table({"url": list("abcd"), "aesthetic": scores})
    pq.write_table(table, tmp_path / "m.parquet")
    where = ("--where", "aesthetic >= 5")
    assert vlv("data", "curate", tmp_path / "m.parquet", tmp_path / "a", *where).code == 0
    assert [row["url"] for row in rows_of(tmp_path / "a" / "urls")] == ["c"]
    dropped = {one["url"]: one["reason"] for one in rows_of(tmp_path / "a" / "dropped")}
    assert dropped == {"a": "no-where", "b": "where", "d": "no-where"}
    texts = {"width": ["600", "1200", "600"], "height": ["700", "300", "wide"]}
    table = pa.table({"url": list("abc"), "pwatermark": ["0.1", "0.1", "n/a"], **texts})
    pq.write_table(table, tmp_path / "t.parquet")
    ran = vlv("data", "curate", tmp_path / "t.parquet", tmp_path / "b", "--paper")
    assert ran.code == 0, ran.err
    assert [row["url"] for row in rows_of(tmp_path / "b" / "urls")] == ["a"]


@pytest.mark.parametrize(
    "entry", ["https://spam.example/", "*.spam.example", "spam.example:80", ""]
)
def test_a_blocklist_names_domains(
    vlv: Callable, metadata: Path, tmp_path: Path, entry: str
) -> None:
    """What matches no link would leave in what was meant to be dropped."""
    (tmp_path / "block.txt").write_text(f"# first\ndomain:{entry}\n")
    flags = ("--blocklist", tmp_path / "block.txt")
    ran = vlv("data", "curate", metadata, tmp_path / "out", *flags)
    assert ran.code == 2 and "line 2 of" in ran.err and "names no domain" in ran.err


def test_a_result_that_cannot_be_written_is_no_damage_of_the_source(
    vlv: Callable, metadata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: links._Writer, table: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    command = (
        "data",
        "curate",
        metadata,
        tmp_path / "out",
        "--where",
        "width > 512",
        "--workers",
        1,
    )
    with monkeypatch.context() as patch:
        patch.setattr(links._Writer, "write", full)
        ran = vlv(*command)
    assert ran.code == 1 and "No space left" in ran.err and "damaged" not in ran.err
    assert vlv(*command).code == 0


def test_a_damaged_file_is_named_and_the_others_are_done(
    vlv: Callable, metadata: Path, tmp_path: Path
) -> None:
    (metadata / "part-00000.parquet").write_bytes(b"PAR1 and nothing else")
    ran = vlv("data", "curate", metadata, tmp_path / "out", "--where", "width > 512", "--json")
    assert ran.code == 1 and "part-00000.parquet is damaged" in ran.err
    assert "img2dataset" in json.loads(ran.out)
    assert json.loads(ran.out)["samples"] == 400


@pytest.mark.slow
def test_a_file_without_links_is_named_and_the_others_are_done(
    vlv: Callable, metadata: Path, tmp_path: Path
) -> None:
    other = pa.table({"text": ["a"]})
    twice = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["URL", "URL"])
    for number, table in enumerate((other, twice)):
        pq.write_table(table, metadata / f"z{number}.parquet")
    ran = vlv("data", "curate", metadata, tmp_path / "out", "--json")
    assert ran.code == 1
    assert "none of its columns is one of url, " in ran.err
    assert "it has two columns URL" in ran.err
    alone = tmp_path / "alone"
    for number in range(2):
        (metadata / f"z{number}.parquet").unlink()
    assert vlv("data", "curate", metadata, alone).code == 0
    assert rows_of(tmp_path / "out" / links.LINKS) == rows_of(alone / links.LINKS)


def test_options_of_images_are_refused(vlv: Callable, metadata: Path, tmp_path: Path) -> None:
    ran = vlv("data", "curate", metadata, tmp_path / "out", "--duplicates", "exact")
    assert ran.code == 2 and "--duplicates is for images, and SRC holds links" in ran.err


def test_processes_give_the_same_bytes(vlv: Callable, metadata: Path, tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        command = ("data", "curate", metadata, tmp_path / name, "--paper", "--workers", workers)
        assert vlv(*command).code == 0
    one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
    # The page names the command, which names the folder.
    assert one.pop("curation.json") != two.pop("curation.json")
    assert one == two


def test_hostile_metadata_is_text_in_the_report(vlv: Callable, tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    laion_metadata(
        tmp_path / "m", files=1, rows=4, URL=[f"https://x.example/{bad}"] * 4, TEXT=[bad] * 4
    )
    condition = "caption = 'x'"
    assert vlv("data", "curate", tmp_path / "m", tmp_path / "out", "--where", condition).code == 0
    page = (tmp_path / "out" / "curation.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page


def test_text_that_is_not_utf_8_ends_no_job(vlv: Callable, tmp_path: Path) -> None:
    def damaged(texts: list[bytes]) -> pa.StringArray:
        return pa.StringArray.from_buffers(len(texts), *pa.array(texts).buffers()[1:])

    urls = damaged(
        [b"https://a.example/1.jpg", b"https://a.example/\xff.jpg", b"https://b.example/"]
    )
    texts = damaged([b"a cat", b"a caf\xe9", b"a gun"])
    laion_metadata(tmp_path / "m", files=1, rows=3, URL=urls, TEXT=texts)
    (tmp_path / "blocked").write_text("gun\n")
    flags = ("--where", "caption <> 'x'", "--blocklist", tmp_path / "blocked")
    ran = vlv("data", "curate", tmp_path / "m", tmp_path / "out", *flags)
    assert ran.code == 0, ran.err
    kept = rows_of(tmp_path / "out" / "urls")
    assert [row["TEXT"] for row in kept] == ["a cat", "a caf\ufffd"]
    assert [row["URL"] for row in kept] == [
        "https://a.example/1.jpg",
        "https://a.example/\ufffd.jpg",
    ]
