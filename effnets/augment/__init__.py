"""Image transforms as pure JAX functions of (images, keys), batched and compiled."""
