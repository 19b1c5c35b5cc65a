"""A memory for a pretrained reader that nobody taught, SmolLM2-135M-Instruct: data, measurements, files."""
