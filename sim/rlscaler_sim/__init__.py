"""The world that the decision is tried in: load, service, pods, metrics, scenarios and their evaluation."""
