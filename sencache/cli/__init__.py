"""`python -m sencache …`: commands, options, tables."""


def main() -> None:
    """Run the command line."""
    from sencache.cli.commands import main as run

    run()
