"""`python -m megagraph`: the command line."""

from megagraph.cli import main

main()
