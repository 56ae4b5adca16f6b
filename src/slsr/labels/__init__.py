"""What each image is told: distributions over the identities, and the losses that use them."""
