"""The chat's page in a real browser: ask, stream, stop, sources, files, feeds, settings, looks.

CHAT_PICTURES=FOLDER keeps pictures of it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from client.adapters import AdapterStore
from client.config import load_federation
from federation.model import adapted
from federation.model.choose import SEMILLA, BaseChoice, identity
from federation.model.load import load_base
from tests.chat_bench import Bench, chat_of
from tests.feed_samples import item, rss
from tests.feed_server import FeedServer, ok
from tests.global_samples import Chain, joined_home
from tests.integration.test_chat_web import QUESTION, VOLCANO, SlowWriter

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian's chromium-driver)"
)
WAIT_S = 40.0
STARTS = 3
XSS = '<img src=x onerror="document.title=1"><script>document.title=2</script> Ataque'
SEEN = "La estación espacial de Júpiter abrió sus puertas en 2031 con doce personas a bordo."


class Page:
    """One browser on one chat.

    Args:
        driver: of the browser.
        bench: the chat.
    """

    def __init__(self, driver: webdriver.Chrome, bench: Bench) -> None:
        self.driver, self.bench = driver, bench

    def enter(self) -> None:
        """Open the link that a terminal would show."""
        self.driver.get(self.bench.door.link)
        self.until(lambda: self.by_id("ask").is_displayed())

    def by_id(self, name: str) -> WebElement:
        """The element of that id."""
        return self.driver.find_element(By.ID, name)

    def all(self, css: str) -> list[WebElement]:
        """Elements of a selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """Text of the last element of a selector, "" without any."""
        found = self.all(css)
        return found[-1].text if found else ""

    def until(self, is_so: Callable[[], Any]) -> None:
        """Wait for it."""
        end = time.monotonic() + WAIT_S
        while True:
            try:
                if is_so():
                    return
            except Exception as err:  # noqa: BLE001 - the page is being changed
                last: object = err
            else:
                last = "not so"
            assert time.monotonic() < end, last
            time.sleep(0.05)

    def ask(self, text: str) -> None:
        """Type a question and press Enter."""
        self.by_id("message").send_keys(text, Keys.ENTER)

    def answered(self, count: int) -> None:
        """Wait for the so-manieth answer's end."""
        self.until(
            lambda: (
                len(self.all(".answer:not(.waiting) .tag")) == count
                and self.by_id("send").is_displayed()
            )
        )

    def picture(self, name: str) -> None:
        """Keep a picture, if it is wanted."""
        if folder := os.environ.get("CHAT_PICTURES"):
            time.sleep(0.3)
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))

    def width(self, pixels: int, height: int = 800) -> None:
        """A screen of another size."""
        facts = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", facts)

    def overflows(self) -> bool:
        """Whether something is wider than the screen."""
        script = (
            "return [document.documentElement, document.getElementById('panel')]"
            ".some((each) => each.scrollWidth > each.clientWidth)"
        )
        return bool(self.driver.execute_script(script))

    def complaints(self) -> list[str]:
        """What the browser found wrong: broken scripts, refused styles."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    def start() -> webdriver.Chrome:
        service = webdriver.ChromeService(executable_path=str(DRIVER))
        return webdriver.Chrome(options_of(tmp_path_factory.mktemp("browser")), service)

    browser = None
    for _attempt in range(STARTS - 1):  # it may not come up in time on a busy machine
        with suppress(WebDriverException):
            browser = start()
            break
    browser = browser or start()
    yield browser
    browser.quit()


def options_of(profile: Path) -> webdriver.ChromeOptions:
    """Headless, with a profile of its own and no way to any other machine."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en",
        "--disable-background-networking", "--disable-component-update", "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1280,800",
        f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return options


@pytest.fixture
def page(driver: webdriver.Chrome, tmp_path: Path) -> Iterator[Page]:
    with chat_of(tmp_path / "node") as bench:
        bench.fill()
        bench.upload("La Palma.txt", VOLCANO.encode())
        made = Page(driver, bench)
        made.width(1280)
        made.complaints()
        made.enter()
        yield made
        assert made.complaints() == []
        driver.execute_script("localStorage.clear()")


def test_a_question_is_answered_with_its_marked_source_and_the_reason(page: Page) -> None:
    assert page.driver.current_url == f"{page.bench.url}/"  # the token is gone from the address
    page.picture("desktop-empty")
    page.ask(QUESTION)
    page.answered(1)
    assert "19 de septiembre de 2021" in page.text(".answer .text")
    page.all(".answer .cite")[0].click()
    page.until(lambda: "85 días" in page.text(".source.aimed .quote"))
    assert "19 de septiembre" in page.text(".source.aimed mark")
    reasons = page.text("#beside .figures")
    assert "semilla" in reasons
    assert "BM25" in reasons
    page.picture("desktop-light")
    page.by_id("theme").click()
    assert page.driver.execute_script("return document.documentElement.dataset.theme") == "dark"
    page.picture("desktop-dark")
    page.by_id("language").click()
    assert page.driver.execute_script("return document.documentElement.lang") == "es"
    assert page.by_id("send").text == "Preguntar"
    page.driver.refresh()
    page.until(lambda: page.by_id("send").text == "Preguntar")  # remembered, and still logged in
    assert page.driver.execute_script("return document.documentElement.dataset.theme") == "dark"
    page.until(lambda: page.all("#sessions .go"))
    page.all("#sessions .go")[0].click()
    page.until(lambda: "2021" in page.text(".answer .text"))


def test_it_can_be_used_on_a_narrow_screen(page: Page) -> None:
    page.width(360, 740)
    page.ask(QUESTION)
    page.answered(1)
    assert not page.overflows()
    page.picture("narrow-light")
    assert not page.by_id("beside").is_displayed()
    page.all(".answer .cite")[0].click()
    page.until(lambda: "85 días" in page.text(".source.aimed .quote"))
    page.picture("narrow-sources")
    page.all("#beside .head button")[0].click()
    assert not page.by_id("beside").is_displayed()
    page.by_id("theme").click()
    page.picture("narrow-dark")
    page.by_id("open-past").click()
    page.until(lambda: page.all("#sessions .go"))
    page.picture("narrow-past")
    page.all("#sessions .go")[0].click()
    for name in ("feeds", "documents", "settings"):
        page.by_id(f"open-{name}").click()
        page.until(lambda: page.by_id("panel").is_displayed())
        assert not page.overflows()
        page.picture(f"narrow-{name}")
        page.by_id("panel-close").click()


def test_an_answer_streams_and_is_stopped(driver: webdriver.Chrome, tmp_path: Path) -> None:
    writer = SlowWriter(2000)
    with chat_of(tmp_path / "node", writer=writer) as bench:
        page = Page(driver, bench)
        page.enter()
        page.by_id("rag").click()
        page.ask("cuenta")
        page.until(lambda: "palabra3" in page.text(".answer .text"))
        assert page.all(".answer.waiting")
        page.by_id("stop").click()
        page.answered(1)
        assert writer.written < 2000
        assert "Stopped" in page.text(".answer .tag")


def test_a_file_is_dropped_and_asked_about(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "huerto.md"
    path.write_text("# El huerto\n\nLos tomates del huerto municipal maduraron el 3 de julio.\n")
    page.by_id("open-documents").click()
    page.until(lambda: page.by_id("panel").is_displayed())
    page.by_id("file").send_keys(str(path))
    page.until(lambda: "El huerto" in page.text("#document-list"))
    assert "otras notas" in page.text("#document-list")
    assert not page.overflows()
    page.picture("desktop-documents")
    page.by_id("panel-close").click()
    page.ask("¿Cuándo maduraron los tomates del huerto municipal?")
    page.answered(1)
    assert "3 de julio" in page.text(".answer .text")


def test_a_feed_is_added_read_and_a_hostile_title_stays_text(page: Page) -> None:
    entry = item(1, title=f"<![CDATA[{XSS}]]>", description=SEEN)
    with FeedServer(pages={"/rss": ok(rss([entry], title=f"<![CDATA[{XSS}]]>"))}) as server:
        page.by_id("open-feeds").click()
        page.until(lambda: page.by_id("panel").is_displayed())
        page.until(lambda: page.all("#starter button"))
        page.picture("desktop-feeds-none")
        page.by_id("feed-url").send_keys(server.url("/rss"))
        page.by_id("feed-test").click()
        page.until(lambda: "Ataque" in page.text("#panel-body .trial .name"))
        assert not page.all("#panel-body img, #panel-body script")
        assert page.bench.client.get("/api/feeds").json() == []
        page.picture("desktop-feeds-tried")
        page.by_id("feed-url").send_keys(Keys.ENTER)
        page.until(lambda: page.all("#feed-list .row"))
        page.by_id("ingest").click()
        page.until(lambda: "1 new" in page.text("#panel-body [role=status]"))
        added = page.bench.client.post("/api/feeds", json={"url": server.url("/b"), "name": XSS})
        assert added.status_code == 201
        page.by_id("panel-close").click()
        page.by_id("open-feeds").click()
        page.until(lambda: XSS in [name.text for name in page.all("#feed-list .name")])
    page.picture("desktop-feeds")
    page.by_id("panel-close").click()
    page.ask("¿Cuándo abrió la estación espacial de Júpiter?")
    page.answered(1)
    assert "2031" in page.text(".answer .text")
    page.until(lambda: "Ataque" in page.text("#beside .source .title"))
    page.ask(XSS)
    page.answered(2)
    assert page.all(".asked")[-1].text.endswith(XSS)
    page.until(lambda: page.all("#sessions .go"))
    assert page.driver.title == "ConscienceAI"
    assert not page.all("#talk img, #beside img, #beside script, #talk script")


def test_settings_are_changed_and_an_opinion_is_kept(page: Page) -> None:
    page.by_id("open-settings").click()
    page.until(lambda: page.all("[name=rag_top_k]"))
    page.picture("desktop-settings")
    entry = page.all("[name=rag_top_k]")[0]
    entry.clear()
    entry.send_keys("2", Keys.ENTER)
    page.until(lambda: "Saved" in page.text("#panel-body [role=status]"))
    held = page.bench.client.get("/api/settings").json()
    assert (held["params"]["rag_top_k"], held["source"]) == (2, "manual")
    page.by_id("panel-close").click()
    page.ask(QUESTION)
    page.answered(1)
    page.all(".under [aria-pressed]")[1].click()
    page.until(lambda: page.all(".reason input"))
    page.all(".reason input")[0].send_keys("corta", Keys.ENTER)
    page.until(lambda: "Kept at home" in page.text(".reason"))


def test_without_the_link_nothing_is_shown(page: Page) -> None:
    page.driver.delete_all_cookies()
    page.driver.get(page.bench.url)
    page.until(lambda: page.by_id("login").is_displayed())
    assert not page.by_id("ask").is_displayed()
    page.by_id("token").send_keys("wrong", Keys.ENTER)
    page.until(lambda: "not the token" in page.by_id("login-problem").text)
    page.by_id("token").clear()
    page.by_id("token").send_keys(page.bench.token, Keys.ENTER)
    page.until(lambda: page.by_id("ask").is_displayed())
    refused = [text for text in page.complaints() if not re.search(r"status of 401", text)]
    assert refused == []


def test_who_writes_can_be_chosen_by_keyboard_once_there_is_an_adapter(
    driver: webdriver.Chrome, tmp_path: Path
) -> None:
    loaded = load_base(BaseChoice("semilla", SEMILLA, None, identity(SEMILLA)), device="cpu")
    chain = Chain(adapted.spec_of(loaded, rank=2, alpha=4))
    home = joined_home(tmp_path / "node", chain)
    store = AdapterStore(home, load_federation(home))
    with chat_of(home.root) as bench:
        page = Page(driver, bench)
        page.enter()
        assert not page.by_id("adapter").is_displayed()  # nothing to choose from
        store.install(chain.publish())
        driver.refresh()
        choice = page.by_id("adapter")
        page.until(choice.is_displayed)
        assert choice.accessible_name == "The model writes as"
        page.by_id("rag").click()
        page.ask("hola")
        page.answered(1)
        assert page.text(".tag") == "written by the model · global@v0"
        choice.send_keys(Keys.ARROW_DOWN)
        page.ask("hola")
        page.answered(2)
        assert page.text(".tag") == "written by the model · semilla"
        page.width(360)
        assert not page.overflows()
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        assert page.complaints() == []
