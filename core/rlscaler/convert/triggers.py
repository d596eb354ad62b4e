"""The triggers of a ScaledObject as measures.

A queue's trigger reads how many messages wait. That is a backlog and no load: for Kafka and RabbitMQ both are written
as the usual exporters have them, for others the load has to be given.

Source of the parameters: KEDA's pages of the scalers prometheus, predictkube, cpu, apache-kafka and rabbitmq-queue.
Series: danielqsj/kafka_exporter (a lag of -1 stands for no committed offset), and rabbitmq_prometheus with metrics per
object.
"""

from dataclasses import replace

from rlscaler.convert import measures, promql
from rlscaler.convert.autoscaler import Measure, Rank
from rlscaler.convert.given import Given
from rlscaler.convert.measures import Who
from rlscaler.convert.promql import Matcher
from rlscaler.quantities import shown

LONGEST_QUERY = 8192
_OF_SOURCE = ("namespace", "customHeaders", "queryParameters", "authModes", "unsafeSsl")
"""Parameters of a Prometheus trigger that belong to the operator's source here."""
_OF_PREDICTION = ("predictHorizon", "historyTimeWindow", "queryStep")
"""Parameters by which PredictKube foretells what the query will be."""
_QUEUE_CAPACITY = "its target is a length of the queue and says nothing of what a replica serves"
_WHOLE_CAPACITY = "its target is of the whole (metricType: Value) and says nothing of one replica"
_RATES = ("MessageRate", "DeliverGetRate")
"""Modes of RabbitMQ whose target is messages/s."""


def measure(trigger: Given, who: Who) -> Measure:
    """Return a trigger as a measure; raises Refused."""
    kind = trigger.need("type", "the type of the trigger").scalar("the type of the trigger")
    metadata = trigger.need("metadata", "a mapping of text to text")
    metadata.names()
    match kind:
        case "prometheus":
            return _prometheus(trigger, metadata)
        case "predictkube":
            return _predictkube(trigger, metadata)
        case "cpu":
            return _cpu(trigger, metadata, who)
        case "kafka" | "apache-kafka":
            return _kafka(kind, metadata)
        case "rabbitmq":
            return _rabbitmq(trigger, metadata)
        case "memory":
            return _none(kind, "it does not follow the load")
        case "cron":
            return _none(kind, "a schedule is no load; the profile of the day is learned from the load")
    return _none(kind, "what it reads is in Prometheus under no name that is known here")


def _none(kind: str, missing: str) -> Measure:
    return Measure(called=shown(kind), rank=Rank.NONE, missing=missing)


def _of_value(trigger: Given) -> bool:
    """Tell whether the target is of the whole (metricType Value) and not of a replica."""
    found = trigger.get("metricType")
    return found is not None and found.word(("AverageValue", "Value", "Utilization")) == "Value"


def _prometheus(trigger: Given, metadata: Given) -> Measure:
    found = _queried("prometheus", trigger, metadata, "serverAddress")
    ignored = metadata.get("ignoreNullValues")
    empty = (
        "an empty answer is a failure to KEDA, as it is unknown here, which holds"
        if ignored is not None and ignored.is_no()
        else "an empty answer is 0 to KEDA and unknown here, which holds; add 'or vector(0)' where it means 0"
    )
    return replace(found, about=[*found.about, empty])


def _predictkube(trigger: Given, metadata: Given) -> Measure:
    found = _queried("predictkube", trigger, metadata, "prometheusAddress")
    told = [(name, metadata.get(name)) for name in _OF_PREDICTION]
    stated = ", ".join(f"{name} of {shown(given.node.text)}" for name, given in told if given is not None)
    about = "KEDA compares what PredictKube foretells of it; here the policy looks ahead of the load itself"
    note = f"{stated or 'the forecast'}: of PredictKube's forecast, which is not asked; the policy looks ahead itself"
    return replace(found, about=[*found.about, about], notes=[*found.notes, note])


def _queried(kind: str, trigger: Given, metadata: Given, address_name: str) -> Measure:
    """Return a trigger that reads a query of a Prometheus; raises Refused."""
    given = metadata.need("query", "a PromQL query")
    query = given.scalar("a PromQL query")
    if len(query) > LONGEST_QUERY:
        raise given.refused(f"{len(query)} characters; expected at most {LONGEST_QUERY}")
    if any(not character.isprintable() and character not in "\n\t\r" for character in query):
        raise given.refused("holds a character that cannot be printed; expected a PromQL query")
    threshold = metadata.need("threshold", "a number above 0").quantity()
    address = metadata.get(address_name)
    notes = measures.rate_notes(query)
    own = [name for name in _OF_SOURCE if metadata.get(name) is not None]
    if trigger.get("authenticationRef") is not None:
        own.append("authenticationRef")
    if own:
        notes.append(f"{', '.join(own)}: access is stated at the source in the operator's configuration")
    found = Measure(
        called=kind,
        rank=Rank.TOTAL,
        load=query,
        about=["the trigger's query as it stands; it has to be a rate of the whole workload, such as requests/s"],
        capacity=_WHOLE_CAPACITY,
        source_url=None if address is None else address.scalar("the URL of a Prometheus"),
        notes=notes,
    )
    return found if _of_value(trigger) else measures.per_replica(found, threshold)


def _cpu(trigger: Given, metadata: Given, who: Who) -> Measure:
    way = trigger.get("metricType") or metadata.get("type")
    kind = "Utilization" if way is None else way.word(("Utilization", "AverageValue"))
    value = metadata.need("value", "a number above 0").quantity()
    container = metadata.get("containerName")
    name = None if container is None or not container.node.text else container.scalar("the name of a container")
    return measures.cpu(who, "cpu", value, name, utilization=kind == "Utilization")


def _kafka(kind: str, metadata: Given) -> Measure:
    topic, group = (_text(metadata, name) for name in ("topic", "consumerGroup"))
    if topic is None or group is None:
        name = "consumerGroup" if group is None else "topic"
        return _none(kind, f"it names no {name}, whose messages would be the load")
    topics = [each.strip() for each in topic.split(",")] if kind == "apache-kafka" else [topic]
    of_topic = promql.any_of("topic", topics)
    arrivals = promql.selector("kafka_topic_partition_current_offset", [of_topic])
    lag = promql.selector("kafka_consumergroup_lag", [Matcher("consumergroup", "=", group), of_topic])
    notes = []
    if not _is_true(metadata, "allowIdleConsumers"):
        notes.append("KEDA asks for no more replicas than partitions: let maxReplicas be that many at most")
    if metadata.get("partitionLimitation") is not None:
        notes.append("partitionLimitation: all partitions of the topic are counted")
    return Measure(
        called=f"{kind} of topic {shown(topic)}",
        rank=Rank.QUEUE,
        load=f"sum(rate({arrivals}[2m]))",
        about=[f"messages/s that arrive at topic {shown(topic)}, as kafka_exporter counts them; KEDA reads the lag"],
        backlog=f"sum(clamp_min({lag}, 0))",
        capacity=_QUEUE_CAPACITY,
        notes=notes,
    )


def _rabbitmq(trigger: Given, metadata: Given) -> Measure:
    queue = _text(metadata, "queueName")
    if queue is None or _is_true(metadata, "useRegex"):
        return _none("rabbitmq", "it names no single queue, whose messages would be the load")
    of_queue = Matcher("queue", "=", queue)
    vhost = _text(metadata, "vhostName")
    in_vhost = [] if vhost is None else [Matcher("vhost", "=", vhost)]
    published = promql.selector("rabbitmq_queue_messages_published_total", [of_queue])
    ready = promql.selector("rabbitmq_queue_messages_ready", [of_queue, *in_vhost])
    found = Measure(
        called=f"rabbitmq of queue {shown(queue)}",
        rank=Rank.QUEUE,
        load=f"sum(rate({published}[2m]))",
        about=[
            f"messages/s published to queue {shown(queue)}, as rabbitmq_prometheus counts them with metrics per object",
            "a queue of that name in another vhost is counted too",
        ],
        backlog=f"sum({ready})",
        capacity=_QUEUE_CAPACITY,
    )
    mode = _text(metadata, "mode") or "QueueLength"
    if mode == "QueueLength":
        return found
    if mode not in _RATES:
        return replace(found, capacity=f"its target is one of {shown(mode)} and says nothing of what a replica serves")
    if _of_value(trigger):
        return replace(found, rank=Rank.TOTAL, capacity=_WHOLE_CAPACITY)
    return measures.per_replica(found, metadata.need("value", "a number above 0").quantity())


def _text(metadata: Given, name: str) -> str | None:
    """Return a parameter, None where it is left out or empty."""
    found = metadata.get(name)
    return (
        None if found is None or (found.node.kind == "text" and not found.node.text.strip()) else found.scalar("text")
    )


def _is_true(metadata: Given, name: str) -> bool:
    return (_text(metadata, name) or "").lower() == "true"
