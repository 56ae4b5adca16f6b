"""Images from encoded bytes to the tensors a network sees."""
