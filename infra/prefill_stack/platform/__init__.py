"""The whole platform on one machine: services, control plane, datacenters, kept running."""
