"""Experiments over the pipeline: studies that run many, and tables that compare them."""
