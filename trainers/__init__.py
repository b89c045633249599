"""What Ray Train fits, and the sums after it: metrics, ensemble, refinement."""
