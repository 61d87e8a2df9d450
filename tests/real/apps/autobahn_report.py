"""What the Autobahn runners print: the verdicts are judged by the test, not here."""

import json


def report(results):
    """One line of JSON: what is known of each case, by its name and in the order of the run."""
    return json.dumps(
        {
            result.case_id: {
                "behavior": result.behavior.value,
                "behavior_close": result.behavior_close.value,
                "expected_codes": (result.expected_close or {}).get("closeCode", []),
                "remote_close": [result.remote_close_code, result.remote_close_reason],
                "why": [result.result, result.result_close, result.was_not_clean_reason],
                "milliseconds": result.duration,
            }
            for result in results
        }
    )
