"""Container images without a registry: written, built and loaded as OCI archives."""
