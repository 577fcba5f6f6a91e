"""Fitting a model to windows."""
