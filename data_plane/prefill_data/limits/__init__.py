"""Limits: rates, concurrency and quotas, enforced together by gateways that rarely ask."""
