"""The shortest resource that is complete: 7 lines, which messages about further lines count from."""

MINIMAL = """\
apiVersion: rlscaler.io/v1alpha1
kind: RLScaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  maxReplicas: 10
  metrics: {load: {query: up}}
"""
