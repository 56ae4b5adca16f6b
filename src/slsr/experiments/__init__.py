"""Studies that run many experiments over the pipeline, and tables that compare experiments."""
