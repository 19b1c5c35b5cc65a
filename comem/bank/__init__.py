"""The `comem bank` command."""
