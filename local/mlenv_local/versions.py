"""The versions that the local cluster is made of; those of the Go components are pinned in go.mod files."""

KUBERNETES = "v1.37.2"
KWOK = "v0.8.0"
PAUSE_IMAGE = "mlenv.io/pause:1"
