"""The demo: a real long prompt prefilled in one process, decoded in another, token for token."""
