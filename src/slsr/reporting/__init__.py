"""Reports, figures, sheets and model cards."""
