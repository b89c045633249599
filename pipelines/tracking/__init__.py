"""MLflow: runs, the registry, and the registered model's code."""
