"""The versions that the local cluster is made of; those of the Go components are pinned in go/go.mod."""

KUBERNETES = "v1.37.2"
PAUSE_IMAGE = "mlenv.io/pause:1"
