"""`python -m mlenv_local` is `mlenv local`."""

from mlenv_local.cli import app

app(prog_name="mlenv local")
