"""`python -m vlv.cli` is `vlv`."""

from vlv.cli.app import main

main()
