"""The dashboard in a real browser, of a real worker: what it shows, and what its buttons do."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.process.commands import Folder, Result, Running, wait_until
from tests.support.browser import Browser
from tests.support.servers import AOF_ALWAYS, Server, find

EVIL = "<img src=x onerror='window.hacked=1'>"

CONTRAST = """
(() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const color = numbers(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    const isText = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!isText || !e.getClientRects().length || e.disabled) continue;
    const [a, b] = [light(numbers(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(`${e.tagName}.${e.className} ${e.textContent}`);
  }
  return poor;
})()
"""


LARGE_APP = """
import("/dashboard/graph.js").then(({ showGraph }) => {
  const topic = "customer-lifecycle-events.production.eu-central-1.v2";
  const handlers = [...Array(12).keys()].map((n) => ({
    key: `${n}`, handler: `my_company.warehouse.inventory.reconcile_stock_levels_${n}`,
    group: "a-group-with-a-long-name", topic, to: `${topic}.out${n}`, emits: [], window: null,
    rate: 1, behind: 2, delay: null, dead: 3, health: { text: "running" },
  }));
  showGraph({ handlers, topology: { topics: [] }, status: { broker: {} } }, () => {});
  const graph = document.getElementById("graph");
  const boxes = [...graph.querySelectorAll(".node, .topic")].filter((e) => e.offsetWidth);
  return {
    over: graph.scrollWidth - graph.parentElement.clientWidth,
    cut: boxes.filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.textContent),
    isList: graph.classList.contains("is-list"),
    handlers: graph.querySelectorAll(".node").length,
  };
})
"""


@dataclass(frozen=True)
class Desk:
    """A worker of `apps.orders` on a server of its own, and a browser beside it."""

    folder: Folder
    server: Server
    worker: Running
    browser: Browser
    address: str
    token: str

    @property
    def closed(self) -> Path:
        """While this file is there the bank is closed, and orders fail."""
        return self.folder.path / "bank.closed"

    def ok(self, *arguments: str) -> Result:
        """Run a command on the worker's broker."""
        return self.folder.ok(*arguments, "--backend", self.server.url())

    def emit(self, order_id: int, key: str, **fields: object) -> None:
        self.ok("emit", "orders", json.dumps({"order_id": order_id, "amount": 9.5, **fields}), "-k", key)

    def open(self, *, token: bool = True, ready: str = "running") -> None:
        """Open the page anew, in a fresh session."""
        self.browser.open("about:blank")
        self.browser.errors.clear()
        self.browser.open(self.address)
        self.browser.run("sessionStorage.clear()")
        self.browser.open("about:blank")
        self.browser.open(f"{self.address}#token={self.token}" if token else self.address)
        self.browser.wait_for(lambda: self.browser.text("#state") == ready, ready)

    def dead(self) -> int:
        return len(self.ok("dlq", "list", "--json").json["dead_letters"])

    def kill_orders(self, key: str, *ids: int) -> None:
        """Let orders become dead letters, and the bank open again."""
        before = self.dead()
        self.closed.touch()
        for order_id in ids:
            self.emit(order_id, key)
        wait_until(lambda: self.dead() == before + len(ids), within_s=60)
        self.closed.unlink()

    def states(self) -> set[str]:
        return {each["state"] for each in self.ok("workers", "list", "--json").json["workers"]}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    path = tmp_path_factory.mktemp("desk")
    with (
        Browser(path / "profile") as browser,
        Server(find("valkey"), tmp_path_factory.mktemp("server"), options=AOF_ALWAYS) as server,
    ):
        folder = Folder(path)
        folder.environment |= {"PSPF_ADMIN": "127.0.0.1:0"}
        (path / "pyproject.toml").write_text('[tool.pspf]\napp = "apps.orders:stream"\n')
        with folder.worker("apps.orders:stream", "--backend", server.url()) as worker:
            worker.wait_for("dashboard: ")
            found = re.search(r"dashboard: (http://\S+/)#token=(\S+)", worker.log.read_text())
            assert found is not None
            desk = Desk(folder, server, worker, browser, found[1], found[2])
            desk.emit(1, "ada")
            yield desk


def test_the_topology_is_shown_with_what_its_handlers_did(desk: Desk) -> None:
    desk.open()
    browser = desk.browser
    browser.wait_for(lambda: browser.count(".edges path") == 3, "three edges: orders, bill, receipts, send")
    assert [browser.text(f".column:nth-child({n}) .node .name") for n in (2, 4)] == ["orders.bill", "orders.send"]
    assert "receipts" in browser.text(".column:nth-child(3) .topic")
    browser.click(".node")
    browser.wait_for(lambda: "Since the worker started" in browser.text("#handler"), "the sheet of the handler")
    assert "reads\norders" in browser.text("#handler")
    browser.click("#handler button")
    assert browser.errors == []


def test_handlers_that_emit_in_a_circle_stand_in_the_order_of_the_first_topic(desk: Desk) -> None:
    desk.open()
    columns = desk.browser.run("""import("/dashboard/graph.js").then(({ arrange }) => {
      const handler = (name, topic, emits) => ({ key: name, handler: name, topic, emits, to: null, rate: 0 });
      const circle = [handler("a", "x", ["y"]), handler("b", "y", ["x", "z", "z-dlq"])];
      return arrange(circle, [{ topic: "z-dlq", role: "dlq" }]).columns.map((c) => c.map((node) => node.key));
    })""")
    assert columns == [["t:x"], ["h:a"], ["t:y"], ["h:b"], ["t:z"]]


def test_a_handler_and_its_repartition_are_one(desk: Desk) -> None:
    desk.open()
    shown = desk.browser.run("""import("/dashboard/model.js").then(({ combine }) => {
      const [named, hop] = [{ group: "g", handler: "sum" }, "g.sum.repartition"];
      const group = (topic, lag, delay) => ({ ...named, topic, lag, watermark_delay_seconds: delay, partitions: [] });
      const behind = { ...named, topic: hop, rate: 2, processed: 5 };
      const place = { place: "x/g#0", state: "running", subscriptions: [behind] };
      const handler = { ...named, topic: "x", rate: 0, processed: 0, emits: [hop, "y"], window: null, busy_ms: 0 };
      const lag = { groups: [group("x", 1, null), group(hop, 2, 7), { ...group(hop, 9, 9), handler: "other" }] };
      const [found] = combine({ processes: [place] }, { handlers: [handler] }, lag).handlers;
      return [found.rate, found.processed, found.behind, found.delay, found.emits, found.health.text];
    })""")
    assert shown == [2, 5, 3, 7, ["y"], "running"]


def test_a_handler_whose_lag_is_not_known_is_not_shown_as_well(desk: Desk) -> None:
    desk.open()
    shown = desk.browser.run("""import("/dashboard/model.js").then(({ combine }) => {
      const named = { topic: "x", group: "g", handler: "sum" };
      const handler = { ...named, rate: 0, emits: [], window: null, busy_ms: 0 };
      const processes = [{ place: "x/g#0", state: "running", subscriptions: [] }];
      const status = { processes, broker: { connected: true } };
      const seen = (lag) => {
        const model = combine(status, { handlers: [handler] }, lag);
        return [model.lag, model.handlers[0].behind, model.handlers[0].health.tone];
      };
      const of = (lag) => ({ lag, groups: [{ ...named, lag, partitions: [] }] });
      return [null, of(null), of(0)].map(seen);
    })""")
    assert shown == [[None, None, "idle"], [None, None, "idle"], [0, 0, "ok"]]


def test_a_dead_letter_is_shown_and_replayed_and_the_count_goes_down(desk: Desk) -> None:
    desk.kill_orders("bob", 21, 22)
    before = desk.dead()
    desk.open()
    browser = desk.browser
    browser.wait_for(lambda: browser.text("#dead") == str(before), f"{before} dead letters")
    browser.click(".letter summary")
    browser.wait_for(
        lambda: '"order_id": 22' in browser.text(".letter pre:nth-of-type(1) ~ *, .letter .body"), "payload"
    )
    shown = browser.text(".letter .body")
    assert "BankClosed: the bank is closed" in shown
    assert "bob" in shown
    assert "Traceback" in shown
    browser.click(".letter .body button")
    browser.wait_for(lambda: browser.text("#dead") == str(before - 1), "one dead letter less")
    assert browser.text("#letters-count") == str(before - 1)
    assert desk.dead() == before - 1
    assert browser.errors == []


def test_all_of_one_error_are_replayed_at_once(desk: Desk) -> None:
    desk.kill_orders("cy", 31, 32)
    desk.emit(33, "dan", card="stolen")
    desk.open()
    browser = desk.browser
    chip = ".chip:not([aria-pressed=true])"
    browser.wait_for(lambda: browser.count(chip) >= 2, "two kinds of errors")
    texts = browser.run("[...document.querySelectorAll('.chip')].map((chip) => chip.innerText)")
    browser.click(f".chip:nth-child({next(i for i, text in enumerate(texts, 1) if 'BankClosed' in text)})")
    browser.wait_for(lambda: "Replay these" in browser.text("#replay-all"), "those of one error")
    browser.click("#replay-all")
    browser.wait_for(lambda: "BankClosed" not in browser.text("#letters"), "none of that error")
    assert "CardRefused" in browser.text("#letters-list")
    assert browser.errors == []


def test_what_a_record_holds_is_never_markup(desk: Desk) -> None:
    desk.emit(41, EVIL, card=EVIL)
    desk.open()
    browser = desk.browser
    browser.wait_for(lambda: EVIL in browser.text("#letters-list"), "the error as it is")
    browser.click(".letter summary")
    browser.wait_for(lambda: browser.text(".letter .body").count("<img") >= 3, "error, key and payload as they are")
    assert browser.count("main img") == 0
    assert browser.run("window.hacked") is None


def test_pause_and_resume_ask_for_the_token_once(desk: Desk) -> None:
    desk.open(token=False)
    browser = desk.browser
    browser.click("#pause")
    browser.wait_for(lambda: "needs" in browser.text("#ask-title"), "the question for the token")
    browser.type("a wrong one")
    browser.click("#ask .primary")
    browser.wait_for(lambda: "not this worker's token" in browser.text("#ask-title"), "that it was wrong")
    browser.type(desk.token)
    browser.click("#ask .primary")
    browser.wait_for(lambda: browser.text("#state") == "paused", "that it is paused")
    wait_until(lambda: desk.states() == {"paused"}, within_s=60)
    browser.click("#resume")
    browser.wait_for(lambda: browser.text("#state") == "running", "that it runs again")
    wait_until(lambda: desk.states() == {"running"}, within_s=60)


def test_one_process_is_paused_and_goes_on(desk: Desk) -> None:
    desk.open()
    browser = desk.browser
    browser.click(".process .button")
    browser.wait_for(lambda: "paused" in browser.text(".process"), "one that is paused")
    assert browser.count(".process") == 2
    assert browser.text("#state") == "partly paused"
    wait_until(lambda: desk.states() == {"paused", "running"}, within_s=60)
    browser.click(".process .button")
    browser.wait_for(lambda: browser.text(".process .state") == "running", "that it runs again")


def test_the_token_leaves_the_address(desk: Desk) -> None:
    desk.open()
    assert desk.browser.run("location.href") == desk.address
    desk.browser.open(desk.address)
    desk.browser.wait_for(lambda: desk.browser.text("#state") == "running", "the page again")
    assert desk.browser.run("sessionStorage.getItem('pspf-token')") == desk.token


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_eyes_need(desk: Desk, scheme: str) -> None:
    desk.kill_orders("eve", 51)
    desk.browser.prefer(scheme)
    desk.open()
    desk.browser.click(".letter summary")
    desk.browser.wait_for(lambda: "Traceback" in desk.browser.text(".letter .body"), "a whole dead letter")
    assert desk.browser.run(CONTRAST) == []


def test_it_fits_a_phone(desk: Desk) -> None:
    browser = desk.browser
    browser.resize(375, 812, is_phone=True)
    try:
        desk.open()
        browser.wait_for(lambda: browser.count(".node") == 2, "the handlers")
        assert browser.run("document.documentElement.scrollWidth") == 375
        assert "orders → receipts" in browser.text(".node .path")
        small = "[...document.querySelectorAll('.bar button, .process button')].filter((e) => e.offsetHeight)"
        assert browser.run(f"Math.min(...{small}.map((e) => e.offsetHeight))") >= 40
    finally:
        browser.resize(1280, 900)


@pytest.mark.parametrize(("width", "is_list"), [(1280, False), (768, True), (375, True)])
def test_many_handlers_with_long_names_fit_the_page(desk: Desk, width: int, is_list: bool) -> None:
    browser = desk.browser
    browser.resize(width, 900, is_phone=width < 600)
    try:
        desk.open()
        shown = browser.run(LARGE_APP)
        assert shown == {"over": 0, "cut": [], "isList": is_list, "handlers": 12}
    finally:
        browser.resize(1280, 900)


def test_a_broker_that_is_away_is_told_and_the_page_recovers(desk: Desk) -> None:
    desk.open()
    browser = desk.browser
    desk.server.kill()
    browser.wait_for(lambda: "The broker does not answer" in browser.text("#banner"), "that the broker is away")
    assert (browser.text("#lag"), browser.text("#lag-note")) == ("–", "not known")
    assert browser.text("#state") == "waits for the broker"
    assert browser.run("[...document.querySelectorAll('[data-tone=ok]')].map((e) => e.innerText)") == []
    desk.server.start()
    browser.wait_for(lambda: browser.text("#banner") == "" and browser.text("#state") == "running", "that it is back")


def test_a_worker_that_is_gone_is_told(desk: Desk, folder: Folder) -> None:
    folder.environment |= {"PSPF_ADMIN": "127.0.0.1:0"}
    browser = desk.browser
    with folder.worker() as worker:
        worker.wait_for("dashboard: ")
        found = re.search(r"dashboard: (\S+)", worker.log.read_text())
        assert found is not None
        browser.open(found[1])
        browser.wait_for(lambda: browser.text("#app") == "app:stream", "the app's name")
        browser.wait_for(lambda: "No dead letters" in browser.text("#letters-empty"), "that there are none")
        worker.process.terminate()
        assert worker.end() == 0
    browser.wait_for(lambda: "The worker does not answer" in browser.text("#banner"), "that the worker is gone")
