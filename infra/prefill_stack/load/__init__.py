"""The load that benches put on, and how they measure it."""
