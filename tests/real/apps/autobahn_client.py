"""The Autobahn fuzzing client, as the package `kosoku` runs it: autobahn_client.py URL CASES

In a process of its own: its cases change the interpreter that they run in. CASES is {"run": [...], "leave_out": [...]}
in JSON. Prints {case: {...}} in JSON as the last line.
"""

import asyncio
import json
import sys

from autobahn_report import report
from kosoku import FailureError, run_fuzzingclient

AT_ONCE = 8


async def main():
    cases = json.loads(sys.argv[2])
    try:
        results = await run_fuzzingclient(sys.argv[1], cases["run"], cases["leave_out"], concurrency=AT_ONCE)
    except FailureError as failed:
        results = failed.results
    print(report(results))


asyncio.run(main())
