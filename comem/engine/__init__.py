"""Answering fast: packed prefill, slots for keys and values, decoding as one graph, work done ahead."""
