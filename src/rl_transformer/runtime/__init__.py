"""Provide basics that every other package may use.

Files, the machine, stop signals, worker processes, random streams, messages, registries and plugins.
"""
