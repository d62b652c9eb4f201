"""Metrics: what exchanges, processes and the agent itself add up to."""
