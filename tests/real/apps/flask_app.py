"""An ordinary Flask app: it answers, it hangs, it streams, it asks a database."""

import os
import traceback

import psycopg
from announce import announce, wait_at_gate
from flask import Flask, Response, jsonify, request
from werkzeug.debug import DebuggedApplication

app = Flask(__name__)
PIECE = b"x" * 1000
HUGE = 1_000_000


@app.get("/ok")
def ok():
    return "ok"


@app.route("/echo", methods=["GET", "POST"])
def echo():
    return jsonify(length=len(request.get_data()), host=request.headers.get("Host"))


@app.route("/hang", methods=["GET", "POST"])
def hang():
    """Killed here, the worker has sent no byte."""
    request.get_data()
    announce("hangs", os.getpid())
    wait_at_gate()
    return "after all"


@app.post("/short")
def short():
    """A small answer of known length; killed in its middle, half of it is on the wire."""
    return _stops_after(PIECE, length=2 * len(PIECE))


@app.post("/long")
def long():
    """A large answer of known length, far over what any proxy would hold back."""
    return _stops_after(PIECE * 200, length=HUGE)


@app.post("/stream")
def stream():
    """An answer of unknown length: chunked."""
    return _stops_after(PIECE * 3, length=None)


def _stops_after(first, length):
    def pieces():
        yield first
        announce("stopped", os.getpid())
        wait_at_gate()

    fields = {} if length is None else {"Content-Length": str(length)}
    return Response(pieces(), mimetype="application/octet-stream", headers=fields)


@app.get("/deliberate")
def deliberate():
    """A 500 that the app means, for programs to read."""
    return jsonify(error="out_of_stock", article=7), 500


connection = None


@app.get("/orders")
def orders():
    return jsonify(orders=_query("select 40 + 2"))


@app.get("/mistake")
def mistake():
    """The database is well, and the app asks for what is not there."""
    return jsonify(carts=_query("select count(*) from carts"))


def _query(statement):
    """Keeps its connection, as apps with a pool do, and opens a new one when that is broken."""
    global connection
    if connection is None or connection.closed:
        connection = psycopg.connect(os.environ["DATABASE"], autocommit=True)
    return connection.execute(statement).fetchone()[0]


# Habits of real apps: a handler that shows the trace, one that shows the message as JSON, and the interactive
# debugger left on.
traced = app
if os.environ.get("ERRORS") == "trace":

    @app.errorhandler(psycopg.Error)
    def show(_error):
        return Response(traceback.format_exc(), status=500, mimetype="text/plain")


if os.environ.get("ERRORS") == "message":

    @app.errorhandler(psycopg.Error)
    def tell(error):
        return jsonify(error=str(error)), 500


if os.environ.get("ERRORS") == "debugger":
    app.config["PROPAGATE_EXCEPTIONS"] = True
    traced = DebuggedApplication(app, evalex=False)
