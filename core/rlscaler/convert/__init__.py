"""RLScaler resources made of the autoscalers that a workload has: HorizontalPodAutoscalers and KEDA's ScaledObjects.

`objects` reads what is given, `hpa` and `keda` turn an autoscaler into an `Autoscaler`, which has what it measures as
PromQL, `draft` chooses the load and the rest of the resource, and `page` writes it with a comment at each value.
"""
