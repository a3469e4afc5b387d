"""`python -m sencache`."""

from sencache.cli.commands import main

main()
