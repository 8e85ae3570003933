"""The only code that talks to the API server: raw objects in and out, typed errors."""
