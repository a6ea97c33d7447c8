"""Models behind OpenAI-compatible addresses: requests, their answers, and what they cost."""
