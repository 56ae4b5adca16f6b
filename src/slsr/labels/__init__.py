"""The label of each image: distributions over the identities, the regularizers, and the loss that uses them."""
