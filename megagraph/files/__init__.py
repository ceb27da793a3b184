"""The files of a run: a git object store, written in process, that many agents share without waiting."""
