"""Quotas: rate limits, quotas and concurrency of a tenant or of one of its keys."""
