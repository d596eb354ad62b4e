"""The operator: watches RLScaler resources, asks for the decision and writes it to the target."""
