"""`python -m sencache`."""

from sencache.cli import main

main()
