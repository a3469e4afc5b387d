"""`python -m sencache …`: commands, options, tables."""
