"""Branches of runs: what every agent did, what depends on what, and a new run without what came after a moment."""
