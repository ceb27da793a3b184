"""House-keeping of a home: runs deleted, leftovers cleared, space given back, runs handed on and taken in."""
