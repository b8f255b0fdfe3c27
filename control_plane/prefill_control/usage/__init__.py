"""Usage: receipts counted exactly once, their sums by hour, and records of requests."""
