"""The Autobahn fuzzing server, as the package `kosoku` runs it: autobahn_server.py PORT CASES

CASES is {"run": [...], "leave_out": [...]} in JSON. When a client asks for /updateReports, prints {case: {...}} in
JSON as the last line, and ends.
"""

import asyncio
import json
import sys

from autobahn_report import report
from kosoku import FailureError, run_fuzzingserver


async def main():
    cases = json.loads(sys.argv[2])
    async with run_fuzzingserver(cases["run"], cases["leave_out"], host="127.0.0.1", port=int(sys.argv[1])) as server:
        try:
            results = await server.get_result()
        except FailureError as failed:
            results = failed.results
    print(report(results))


asyncio.run(main())
