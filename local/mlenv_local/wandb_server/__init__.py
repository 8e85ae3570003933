"""A W&B-compatible server for the unmodified client: one process, one SQLite file, one folder of contents.

`app.create_app` composes it, `mlenv local wandb up` runs it. Parts add themselves: every file of `schema/` is
read, every module of `resolvers/` gives its `BINDABLES`, every module of `routes/` its `ROUTES`, every file
of `migrations/` is applied once.
"""
