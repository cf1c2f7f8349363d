"""Images: deterministic layers, OCI layouts and archives, and trees that are read without unpacking."""
