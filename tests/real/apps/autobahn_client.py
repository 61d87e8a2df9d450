"""The Autobahn fuzzing client, as the package `kosoku` runs it: autobahn_client.py URL CASES

In a process of its own: its cases change the interpreter they run in. CASES is {"run": [...], "leave_out": [...]} in
JSON; prints {case: {...}} in JSON.
"""

import asyncio
import json
import sys

from kosoku import FailureError, run_fuzzingclient


async def main():
    cases = json.loads(sys.argv[2])
    try:
        results = await run_fuzzingclient(sys.argv[1], cases["run"], cases["leave_out"], concurrency=8)
    except FailureError as failed:
        # What counts is the difference between two runs, not each case by itself.
        results = failed.results
    seen = {
        result.case_id: {
            "verdict": [result.behavior.value, result.behavior_close.value],
            "result": [result.result, result.result_close],
            "remote_close": [result.remote_close_code, result.remote_close_reason],
            "not_clean": result.was_not_clean_reason,
            "milliseconds": result.duration,
        }
        for result in results
    }
    print(json.dumps(seen))


asyncio.run(main())
