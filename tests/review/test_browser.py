"""The review in a real browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from puregen_transforms.detection.decisions import FILE, Decisions
from tests.review.conftest import EVIL, EVIL_CLASS

pytest.importorskip("gradio", reason="the extra `app` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)

HARMLESS = "Method not implemented."
"""A warning of Gradio's own."""


@contextmanager
def started(searched):
    """Run the command until the block ends; give its process and the address that it prints."""
    command = ["-m", "puregen_transforms", "review", str(searched.report), "--no-browser", "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        try:
            lines = []
            for line in run.stdout:
                lines.append(line)
                if found := re.search(r"http://\S+", line):
                    break
            else:
                pytest.fail("".join(lines))
            yield run, found.group()
        finally:
            run.send_signal(signal.SIGINT)
            left = run.stdout.read()
    assert "Traceback" not in left


@pytest.fixture(scope="module")
def address(searched):
    with started(searched) as (_, address):
        yield address


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def window(chromium, searched):
    """A window in which nothing may go wrong: no error, no dialog, no word to another server."""
    (searched.report / FILE).unlink(missing_ok=True)
    context = chromium.new_context(viewport={"width": 1380, "height": 900})
    wrong = []
    context.on("console", lambda said: said.text == HARMLESS or wrong.append((said.type, said.text)))
    context.on("weberror", lambda error: wrong.append(error.error))
    context.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    context.on(
        "request",
        lambda asked: asked.url.startswith(("http://127.0.0.1:", "data:", "blob:")) or wrong.append(asked.url),
    )
    context.on("response", lambda answer: answer.status < 400 or wrong.append((answer.status, answer.url)))
    yield context
    context.close()
    assert not wrong


def opened(window, address):
    page = window.new_page()
    page.goto(address)
    page.wait_for_selector("#review aside h2")
    return page


def answers(page):
    return [tile.get_attribute("data-answer") for tile in page.query_selector_all(".tile")]


def decide(page, keys):
    """Press keys, and wait until the last decision is saved."""
    for key in keys[:-1]:
        page.keyboard.press(key)
    with page.expect_response(lambda answer: answer.url.endswith("/review/decide")) as told:
        page.keyboard.press(keys[-1])
    assert told.value.ok
    page.wait_for_timeout(300)


def test_three_are_marked_by_keyboard_and_stay_marked(window, address, searched, tmp_path):
    page = opened(window, address)
    assert page.locator(".tile").count() == 20
    page.keyboard.press("k")
    page.keyboard.press("d")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("u")
    page.wait_for_selector('.tile[data-answer="unsure"]')
    assert answers(page)[:5] == ["keep", "drop", "", "unsure", ""]
    kept = Decisions.load(searched.report)
    assert sorted(one.answer for one in kept) == ["drop", "keep", "unsure"]
    page.reload()
    page.wait_for_selector("#review aside h2")
    assert answers(page)[:5] == ["keep", "drop", "", "unsure", ""]
    assert page.locator(".tile").nth(4).get_attribute("class") == "tile here", "where it was before"
    with page.expect_download() as download:
        page.get_by_text("Export CSV").click()
    download.value.save_as(tmp_path / "decisions.csv")
    lines = list(csv.DictReader((tmp_path / "decisions.csv").open(newline="")))
    assert [line["decision"] for line in lines[:5]] == ["keep", "drop", "", "unsure", ""]
    assert {line["name"].rpartition("/")[2] for line in lines} >= set(EVIL)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Backspace")
    page.wait_for_selector('.tile[data-answer="unsure"]', state="detached")
    assert len(Decisions.load(searched.report)) == 2


def test_filters_show_what_was_asked_for(window, address):
    page = opened(window, address)
    page.keyboard.press("d")
    page.wait_for_selector('.tile[data-answer="drop"]')
    page.select_option("select[name=decision]", "drop")
    page.wait_for_function("document.querySelectorAll('.tile').length === 1")
    page.select_option("select[name=decision]", "undecided")
    page.wait_for_function("document.querySelectorAll('.tile').length === 19")
    page.select_option("select[name=class_name]", EVIL_CLASS)
    page.select_option("select[name=kind]", "poison")
    page.wait_for_function("document.querySelectorAll('.tile').length === 19")
    page.select_option("select[name=decision]", "keep")
    page.wait_for_selector(".none")
    page.reload()
    page.wait_for_selector(".none")
    assert page.input_value("select[name=class_name]") == EVIL_CLASS


def test_the_mouse_decides_and_views_are_made_on_demand(window, address):
    page = opened(window, address)
    page.locator(".tile").nth(6).click()
    page.get_by_role("button", name="Keep").click()
    page.wait_for_selector('.tile[data-answer="keep"]')
    assert answers(page)[6] == "keep"
    page.keyboard.press("p")
    for view in ("purified", "change"):
        page.wait_for_selector(f"aside img[alt={view}]", timeout=60_000)
    page.wait_for_selector("aside .near .alike img", timeout=60_000)
    assert page.locator("aside .mark img").count() >= 1
    page.locator(".alike [data-open]").first.click()
    page.wait_for_function("!document.querySelectorAll('.tile')[6].classList.contains('here')")


def test_two_tabs_agree(window, address, searched):
    one, two = opened(window, address), opened(window, address)
    one.bring_to_front()
    one.keyboard.press("k")
    two.wait_for_selector('.tile[data-answer="keep"]')
    two.bring_to_front()
    two.keyboard.press("d")
    one.wait_for_selector('.tile[data-answer="drop"]')
    assert answers(one)[0] == answers(two)[0] == "drop"
    assert [one.answer for one in Decisions.load(searched.report)] == ["drop"]


def test_what_cannot_be_saved_is_not_shown_as_saved(chromium, address, searched):
    (searched.report / FILE).unlink(missing_ok=True)
    page = opened(chromium, address)
    (searched.report / FILE).mkdir()
    try:
        page.keyboard.press("k")
        page.wait_for_selector(".problem")
        assert page.inner_text(".problem").startswith("Not saved")
        assert not any(answers(page))
    finally:
        page.close()
        (searched.report / FILE).rmdir()


def test_an_uploaded_image_is_purified(window, address, searched):
    page = opened(window, address)
    page.get_by_role("tab", name="Purify an image").click()
    page.set_input_files("input[type=file]", searched.folder / "cat/0003.png")
    page.wait_for_selector(".plain img")
    page.keyboard.press("k")
    page.click("#purify")
    page.wait_for_function("document.querySelectorAll('.plain img').length === 2", timeout=60_000)
    assert not (searched.report / FILE).exists(), "keys mean nothing on this tab"


def test_hostile_names_are_text(window, address):
    page = opened(window, address)
    for tile in page.query_selector_all(".tile"):
        tile.click()
        page.wait_for_function(
            f"document.querySelector('aside .answers').dataset.sha === '{tile.get_attribute('data-sha')}'"
        )
    titles = [name.get_attribute("title") for name in page.query_selector_all(".name[title]")]
    assert f"{EVIL_CLASS}/{EVIL[0]}" in titles
    assert f"{EVIL_CLASS}/{EVIL[1]}" in titles
    assert page.locator("#review script").count() == 0


def request(address, path, method="GET", body=None, **headers):
    place = urlsplit(address)
    connection = HTTPConnection(place.hostname, place.port, timeout=30)
    connection.request(method, path, body, {"Host": place.netloc} | headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def test_another_page_can_neither_read_nor_change_anything(address, searched):
    place = urlsplit(address)
    status, _, headers = request(address, f"/?{place.query}")
    assert status == 303
    known = {"Cookie": headers["set-cookie"].partition(";")[0]}
    status, html, _ = request(address, "/review/page", **known)
    assert status == 200
    digest = re.search(rb'data-sha="(\w+)"', html).group(1).decode()
    body = json.dumps({"sha256": digest, "answer": "keep"})
    json_body = {"Content-Type": "application/json"}
    (searched.report / FILE).unlink(missing_ok=True)
    for foreign in (
        {},
        {**known, "Host": f"evil.example:{place.port}"},
        {**known, "Origin": "http://evil.example"},
        {**known, "Origin": "null"},
        {**known, "Sec-Fetch-Site": "cross-site"},
    ):
        for path in ("/", "/config", "/review/page", f"/review/thumbnail/{digest}", "/review/decisions.csv"):
            assert request(address, path, **foreign)[0] == 403
        assert request(address, "/review/decide", "POST", body, **json_body, **foreign)[0] == 403
        assert request(address, "/gradio_api/upload", "POST", b"x", **foreign)[0] == 403
    assert request(address, "/review/decide", "POST", body, **{"Content-Type": "text/plain"}, **known)[0] == 415
    assert not (searched.report / FILE).exists()
    for path in (
        f"/gradio_api/file={searched.folder.parent}/private.txt",
        f"/gradio_api/file={searched.folder}/cat/0003.png",
        "/gradio_api/file=/etc/passwd",
        "/review/thumbnail/..%2f..%2fprivate.txt",
        "/review/picture/original/%2fetc%2fpasswd",
        "/review/row/..%2f..%2fprivate.txt",
        "/review/row/-1",
        "/review/mark/..%2f..%2fprivate/0",
        "/static/..%2f..%2f..%2fetc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:1/",
    ):
        status, content, _ = request(address, path, **known)
        assert status in (403, 404, 422), path
        assert b"secret" not in content
    assert request(address, "/review/decide", "POST", body, **json_body, **known)[0] == 200
    assert (searched.report / FILE).exists()


def test_it_listens_on_the_loopback_address_alone(address):
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("no table of sockets")
    port = urlsplit(address).port
    lines = [line.split() for line in table.read_text().splitlines()[1:]]
    listening = [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")]
    assert listening == [f"0100007F:{port:04X}"]


@pytest.mark.slow
def test_decisions_survive_a_kill(searched, chromium):
    (searched.report / FILE).unlink(missing_ok=True)
    with started(searched) as (run, address):
        page = opened(chromium, address)
        decide(page, ["k"])
        run.kill()
        page.close()
    assert [one.answer for one in Decisions.load(searched.report)] == ["keep"]
    (searched.report / FILE).unlink()
