"""Research for "any model": a memory for a frozen SmolLM2 (README.md); to become library code and a script."""
