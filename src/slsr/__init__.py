"""Semi-supervised person re-identification with sparse label smoothing."""
