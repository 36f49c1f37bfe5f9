"""The `graceful` jobs. The only place that knows Hydra."""
