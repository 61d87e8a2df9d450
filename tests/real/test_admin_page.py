"""The admin page in Chromium: what an operator sees of failures, also on a phone, in the dark and by keyboard.

What it shows was written by failing apps and by clients: none of it may become markup (see apps/hostile_app.py).
"""

import json
import subprocess
import sys

import pytest
from websockets.sync.client import connect

from support import http1
from support.processes import APPS, free_port, python_websockets
from support.seawall import BINARY

TEXT = "return document.getElementById(%r).textContent"
HURT, WELL = "Clients are hurt now.", "No client is hurt now."


def text(browser, element):
    return browser.run(TEXT % element)


def says(browser, verdict):
    browser.wait(f"return document.getElementById('verdict').textContent === {json.dumps(verdict)}", verdict)


def entries(browser, count):
    browser.wait(f"return document.querySelectorAll('#entries summary').length === {count}", f"{count} entries")
    return browser.run("return [...document.querySelectorAll('#entries summary')].map((entry) => entry.textContent)")


@pytest.fixture
def admin(seawall):
    return f"http://127.0.0.1:{seawall.admin}/"


@pytest.fixture
def hostile(processes, port):
    return processes.start("hostile", [sys.executable, APPS / "hostile_app.py", port]).wait_for_port(port)


def test_it_says_whether_clients_are_hurt_by_what_and_why(seawall, admin, browser):
    browser.open(admin)
    says(browser, WELL)
    assert entries(browser, 0) == []
    answer = http1.get(seawall.port, "/cart")
    says(browser, HURT)
    assert "1 failure reached clients: connection_refused of app." in text(browser, "detail")
    assert text(browser, "since").startswith("It began at ")
    [entry] = entries(browser, 1)
    assert "connection_refused" in entry and "GET /cart" in entry and "Connection refused" in entry
    for chart, series in (("by-kind", "connection_refused"), ("by-upstream", "app")):
        shown = browser.run(f"return document.querySelector('#{chart} svg').getAttribute('aria-label')")
        assert shown.endswith(f": {series} 1"), shown
        assert browser.run(f"return document.querySelectorAll('#{chart} rect').length") == 1
    assert "unreachable" in text(browser, "upstreams")
    status = http1.operate(seawall.admin, "/status.json").json()
    assert status["now"] == {"seconds": 60, "requests": 1, "failures": 1, "passed": 0, "recovered": 0}
    assert answer.get("x-request-id") not in json.dumps(status), "what was said is in the journal only"
    seawall.stop()
    says(browser, "This seawall does not answer.")


def test_open_websockets_and_healthy_endpoints_are_shown(processes, events, port, seawall, admin, browser):
    python_websockets(processes, events, port)
    browser.open(admin)
    with connect(seawall.websocket("/"), proxy=None):
        browser.wait("return document.getElementById('upstreams').textContent.includes('1 open WebSocket')", "it is open")
    browser.wait("return document.getElementById('upstreams').textContent.includes('0 open WebSockets')", "it is closed")
    assert "1 of 1 endpoint healthy" in text(browser, "upstreams")


def test_what_a_failing_app_wrote_is_text(seawall, admin, hostile, browser):
    http1.get(seawall.port, "/&lt;b&gt;")
    http1.get(seawall.port, "/cart")
    browser.open(admin)
    assert "GET /&lt;b&gt;" in entries(browser, 2)[1]
    browser.run("document.querySelectorAll('#entries details').forEach((entry) => { entry.open = true; })")
    browser.wait("return document.querySelectorAll('#entries pre').length >= 2", "the details are shown")
    said = browser.run("return [...document.querySelectorAll('#entries pre')].map((pre) => pre.textContent)")
    assert any("<script>window.hurt='script'</script>" in each for each in said), said
    assert browser.run("return document.querySelectorAll('img, #entries script, #entries iframe').length") == 0
    assert browser.run("return window.hurt || null") is None
    refused = "try { document.body.innerHTML = '<b>x</b>'; return null; } catch (error) { return error.name; }"
    assert browser.run(refused) == "TypeError", "the policy lets no text become markup"


def test_a_request_is_found_by_its_id_and_the_search_can_be_sent(seawall, admin, hostile, browser):
    first, second = (http1.get(seawall.port, path).get("x-request-id") for path in ("/one", "/two"))
    browser.open(f"{admin}#id={first}")
    [entry] = entries(browser, 1)
    assert "/one" in entry
    browser.wait("return document.querySelector('#entries pre')", "its details are open")
    assert first in text(browser, "entries") and "RuntimeError" in text(browser, "entries")
    browser.run(
        f"const id = document.getElementById('id'); id.value = '{second[:12]}';"
        "id.dispatchEvent(new Event('input', { bubbles: true }));"
    )
    browser.wait("return document.getElementById('entries').textContent.includes('/two')", "the beginning is enough")
    assert browser.run("return location.hash") == f"#id={second[:12]}"
    http1.get(seawall.port, "/ok")
    browser.run(
        "const kind = document.getElementById('kind'); kind.value = 'dns_error';"
        "kind.dispatchEvent(new Event('input', { bubbles: true }));"
    )
    entries(browser, 0)
    browser.wait(f"return {TEXT[7:] % 'found'} === 'No failure that is remembered matches.'", "it is told")


def test_the_keyboard_alone_opens_an_entry_and_it_is_not_pushed_away(seawall, admin, hostile, browser):
    http1.get(seawall.port, "/first")
    browser.open(admin)
    entries(browser, 1)
    for _ in range(40):
        browser.press("Tab")
        if browser.run("return document.activeElement.matches('#entries summary')"):
            break
    browser.press("Enter")
    browser.wait("return document.querySelector('#entries details[open] pre')", "its details are open")
    http1.get(seawall.port, "/second")
    browser.wait("return !document.getElementById('newer').hidden", "something newer is offered")
    assert browser.run("return document.activeElement.matches('#entries details[open] summary')")
    browser.run("document.getElementById('newer').click()")
    newest, oldest = entries(browser, 2)
    assert "/second" in newest and "/first" in oldest
    assert browser.run("return document.querySelectorAll('#entries details[open]').length") == 1, "it stays open"


def test_it_fits_a_phone_and_is_readable_in_the_dark(seawall, admin, hostile, browser):
    http1.get(seawall.port, "/" + "long" * 200)
    browser.look_like(360, 740, scheme="dark")
    browser.open(f"{admin}#kind=application_error")
    entries(browser, 1)
    browser.run("document.querySelectorAll('details').forEach((entry) => { entry.open = true; })")
    browser.wait("return document.querySelector('#config pre').textContent.includes('workers')", "the configuration")
    width = "return [innerWidth, document.documentElement.scrollWidth - document.documentElement.clientWidth]"
    assert browser.run(width) == [360, 0], "nothing sticks out"
    contrast = """
    const light = (colour) => {
      const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
      const colour = getComputedStyle(node).backgroundColor;
      return colour === "rgba(0, 0, 0, 0)" ? behind(node.parentElement) : colour;
    };
    const poor = [];
    for (const node of document.querySelectorAll("h1, h2, p, span, a, b, dt, dd, pre, button, label")) {
      if (!node.textContent.trim()) continue;
      const pair = [light(getComputedStyle(node).color), light(behind(node))];
      const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
      if (ratio < 4.5) poor.push(`${node.tagName} ${node.textContent.slice(0, 30)} ${ratio.toFixed(1)}`);
    }
    return poor;
    """
    assert browser.run(contrast) == [], "WCAG 2 AA, in the dark"
    browser.look_like(1200, 900)
    assert browser.run(contrast) == [], "WCAG 2 AA, in the light"
    unnamed = "return [...document.querySelectorAll('input, select')].filter((field) => !field.labels.length).length"
    assert browser.run(unnamed) == 0


def test_with_a_token_it_asks_for_it_and_keeps_it_for_the_tab(processes, tmp_path, browser):
    secret = "a-token-of-operators-0123"
    (tmp_path / "token").write_text(secret + "\n")
    own, own_admin = free_port(), free_port()
    config = tmp_path / "seawall.yaml"
    config.write_text(
        f'listeners: [{{ address: "127.0.0.1:{own}" }}]\n'
        f'admin: {{ address: "127.0.0.1:{own_admin}", token_file: token }}\n'
        f'upstreams: {{ app: {{ endpoints: ["http://127.0.0.1:{free_port()}"] }} }}\nroutes: [{{ upstream: app }}]\n'
    )
    processes.start("seawall", [BINARY, "-c", config]).wait_for_port(own).wait_for_port(own_admin)
    http1.get(own, "/cart")
    browser.open(f"http://127.0.0.1:{own_admin}/")
    says(browser, "The token is needed.")
    assert "connection_refused" not in browser.run("return document.body.textContent")
    give = "document.getElementById('token').value = %r; document.querySelector('#unlock button').click();"
    browser.run(give % "wrong")
    says(browser, "This is not the token.")
    browser.run(give % secret)
    says(browser, HURT)
    browser.open(f"http://127.0.0.1:{own_admin}/#kind=connection_refused")
    says(browser, HURT)
    assert secret not in browser.run("return document.documentElement.outerHTML + location.href")
    argv = [BINARY, "failures", "--url", f"http://127.0.0.1:{own_admin}"]
    with_token = subprocess.run([*argv, "--token-file", tmp_path / "token"], capture_output=True, text=True, timeout=20)
    assert "GET /cart" in with_token.stdout
    without = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert without.returncode == 1 and "401" in without.stderr
