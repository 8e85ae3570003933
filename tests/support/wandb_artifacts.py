"""What test programs of the real client have in common when they log artifacts."""

from __future__ import annotations

FILES = """
def artifact(name, kind="set", **files):
    made = wandb.Artifact(name, kind)
    for path, text in files.items():
        with made.new_file(path) as file: file.write(text)
    return made
def log(run, made, **more):
    run.log_artifact(made, **more)
    return made.wait()
def births(made): return {path: entry.birth_artifact_id for path, entry in made.manifest.entries.items()}
"""
