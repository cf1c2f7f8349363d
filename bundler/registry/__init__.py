"""Registries: images pushed, pulled and attached to, over the OCI distribution API."""
