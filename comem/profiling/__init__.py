"""What answering costs: time to first token, decoding speed, throughput, memory and operations."""
