"""Flask: python flask_app.py PORT debug|production|traced"""

import sys
import traceback

from flask import Flask, jsonify
from werkzeug.serving import run_simple

MODE = sys.argv[2:]
app = Flask(__name__)


class Cart:
    def __init__(self, items):
        self.items = items

    def average(self):
        return sum(self.items) / len(self.items)


@app.get("/boom")
def boom():
    return str(Cart([]).average())


@app.get("/deliberate")
def deliberate():
    return jsonify(error="out_of_stock", article=7), 500


@app.get("/unavailable")
def unavailable():
    from flask import abort

    abort(500, "The order could not be saved. Please try again.")


@app.get("/ok")
def ok():
    return "ok"


if "traced" in MODE:

    @app.errorhandler(ZeroDivisionError)
    def show(error):
        return jsonify(error=str(error), traceback=traceback.format_exc().splitlines()), 500


if __name__ == "__main__":
    app.debug = "debug" in MODE
    run_simple("127.0.0.1", int(sys.argv[1]), app, use_debugger="debug" in MODE, threaded=True)
