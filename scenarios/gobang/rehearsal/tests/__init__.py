"""The tests of the game: `python run_tests.py`."""
