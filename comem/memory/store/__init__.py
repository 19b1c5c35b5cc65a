"""The memory store: a folder of memories that lasts. The format is in docs/memory_bank.md, byte by byte."""
