"""Serve a policy's sessions over a network: HTTP with JSON, and a WebSocket for robots."""
