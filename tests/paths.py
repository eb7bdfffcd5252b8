"""Where the project and its golden numbers are, for tests at any depth."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
PROJECT = TESTS.parent
GOLDEN = TESTS / "golden"
