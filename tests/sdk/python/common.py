"""What the SDK programs share. They run against the ingress that the environment names and print one line per promise."""

import os
import sys
import traceback

URL = os.environ["E2E_URL"]
KEY = os.environ["E2E_KEY"]
CREDENTIAL = "sk-provider-credential"


def run(scenarios):
    """Runs every scenario, all of them even when one fails, and ends with a status that says so."""
    failed = []
    wanted = sys.argv[1:]
    for scenario in scenarios:
        if wanted and scenario.__name__ not in wanted:
            continue
        try:
            scenario()
            print(f"ok {scenario.__name__}", flush=True)
        except Exception:
            failed.append(scenario.__name__)
            print(f"FAILED {scenario.__name__}", flush=True)
            traceback.print_exc()
    sys.exit(1 if failed else 0)


def raises(kind, call):
    """Runs `call`, which must raise `kind`, and returns the exception."""
    try:
        result = call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} but {result!r}")
