"""The Compose tab."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.serving.conftest import Server, data_url, pixels, scene

pytestmark = pytest.mark.browser


def test_two_pictures_become_one(page: Page, server: Server, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Compose").click()
    compose = page.get_by_role("button", name="Compose", exact=True)
    expect(compose).to_be_disabled()
    for seed, side in ((1, "first"), (3, "second")):
        scene(seed).save(tmp_path / f"{side}.png")
        page.locator(f"#{side} input[type=file]").set_input_files(tmp_path / f"{side}.png")
        expect(page.locator(f"#{side} img")).to_be_visible()

    first = page.get_by_label("Embeddings of the first picture")
    second = page.get_by_label("Embeddings of the second picture")
    expect(first).to_have_value("70")
    expect(second).to_have_value("7")
    first.fill("75")
    expect(second).to_have_value("2")
    second.fill("30")
    expect(first).to_have_value("47")
    expect(page.locator("#sum")).to_have_text("47 + 30 of at most 77 embeddings")

    order = page.get_by_label("Which of its embeddings")
    expect(order).to_have_value("trailing")
    compose.click()
    expect(page.locator("#composed .placeholder")).to_have_text(re.compile(r"Step \d+ of 25"))
    shown = page.locator("#composed img")
    expect(shown).to_be_visible()
    wanted = server.post(
        "/v1/vlv/compose",
        a={"image": data_url(scene(1))},
        b={"image": data_url(scene(3))},
        keep_a=47,
        keep_b=30,
        order="trailing",
        num_inference_steps=25,
        scheduler="dpm++sde",
    ).json()["image"]
    assert abs(pixels(shown.get_attribute("src") or "") - pixels(wanted)).max() <= 2

    entry = page.get_by_role("button", name="Composition of first.png and second.png")
    expect(entry).to_be_visible()
    order.select_option("leading")
    page.get_by_role("tab", name="Caption").click()
    entry.click()
    expect(shown).to_be_visible()
    expect(order).to_have_value("trailing")
    expect(first).to_have_value("47")
