"""What joins the operator to the world outside the API server: kopf, HTTP, metrics, tokens."""
