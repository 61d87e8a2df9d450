"""FastAPI on uvicorn: python fastapi_app.py PORT debug|production|traced"""

import sys
import traceback

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

MODE = sys.argv[2:]
app = FastAPI(debug="debug" in MODE)
if "gzip" in MODE:
    app.add_middleware(GZipMiddleware, minimum_size=50)


def price(article):
    return {"book": 12}[article]


@app.get("/boom")
async def boom():
    return price("pen")


@app.get("/sync")
def in_a_thread():
    return price("pen")


@app.get("/streamed")
async def streamed():
    try:
        price("pen")
    except KeyError:
        pieces = iter(traceback.format_exc().splitlines(keepends=True))
    return StreamingResponse(pieces, status_code=500, media_type="text/plain")


@app.get("/deliberate")
async def deliberate():
    return JSONResponse({"error": "out_of_stock", "article": 7, "note": "x" * 400}, 500)


@app.get("/http-exception")
async def refused():
    raise HTTPException(500, "The order could not be saved.")


@app.get("/ok")
async def ok():
    return PlainTextResponse("ok")


if "traced" in MODE:

    @app.exception_handler(KeyError)
    async def show(_request: Request, error: KeyError):
        return JSONResponse({"error": repr(error), "detail": traceback.format_exc()}, 500)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical")
