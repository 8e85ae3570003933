"""HTTP routes: every module's `ROUTES` become part of the application, in the order of their `ORDER`."""
