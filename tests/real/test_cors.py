"""A script of another origin reads seawall's 500, where it is allowed to (Fetch standard, CORS protocol)."""

import pytest

from support.processes import free_port, gunicorn

ASK = """
window.seen = null;
fetch(%r).then(async (answer) => {
  const problem = await answer.json();
  window.seen = { status: answer.status, id: answer.headers.get("x-request-id"), problem };
}, (error) => { window.seen = { error: error.name }; });
"""


@pytest.fixture
def page(processes, events, port, start_seawall, browser):
    """A page of a healthy app, behind a seawall of its own."""
    gunicorn(processes, events, port)
    own = start_seawall(port)
    browser.open(own.url("/page"))
    return f"http://127.0.0.1:{own.port}"


def fetched(browser, url):
    browser.run(ASK % url)
    return browser.wait("return window.seen", "the fetch is settled")


def test_a_script_of_an_allowed_origin_reads_the_failure(page, start_seawall, browser):
    down = start_seawall(free_port(), more=f'failures: {{ cors: {{ origins: ["{page}"] }} }}')
    seen = fetched(browser, down.url("/cart"))
    assert seen["status"] == 500
    assert seen["problem"]["type"] == "urn:seawall:failure:connection_refused"
    assert seen["id"] == seen["problem"]["instance"]


def test_without_permission_it_sees_a_network_error(page, start_seawall, browser):
    down = start_seawall(free_port(), more='failures: { cors: { origins: ["https://other.example"] } }')
    assert fetched(browser, down.url("/cart")) == {"error": "TypeError"}
