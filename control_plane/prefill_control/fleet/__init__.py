"""Fleet: workers and gateways as their heartbeats tell."""
