"""Run all tests, or those of the parts named: `run_tests.py board engine`."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    names = sys.argv[1:] or ["*"]
    suite = unittest.TestSuite(
        unittest.TestLoader().discover(str(HERE / "tests"), f"test_{name}.py", str(HERE)) for name in names
    )
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=1).run(suite)
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
