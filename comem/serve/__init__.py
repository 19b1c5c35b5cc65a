"""A memory over HTTP: OpenAI's chat completions and decisions, mem0's memories, System One, and a page."""
