"""The real HPA and rlscaler beside each other: ``side_by_side.py [--speed X] [--minutes M] [--trace FILE --from S]``.

A recorded burst of load against twin Deployments in a real control plane: HPAs of kube-controller-manager on an
external metric, and an Active RLScaler; both are told the load by the same real Prometheus. Printed are replica-seconds
and unmet demand of each, and beside them what the simulator's world predicted before the play began.

A speed of 15 (the default, and the most) makes four minutes of every hour; what a policy of rlscaler remembers is not
compressed with it, so its figures at a speed are not those of rlscaler at work. ``--speed 1`` plays in real time.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from rlscaler_sim.load import LoadError
from rlscaler_sim.trace import TraceError, read_trace
from twin_burst import burst, recorded_or_made_up
from twin_play import played
from twin_prediction import predicted
from twin_report import report
from twins import twins


def main() -> None:
    """Predict, play and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--speed", type=float, default=15.0, help="of time, 1 to 15 (default: 15)")
    parser.add_argument("--minutes", type=float, default=20.0, help="of the load that count (default: 20)")
    parser.add_argument("--trace", type=Path, help="a CSV of recorded load (default: a burst of the Twitter stream)")
    parser.add_argument(
        "--from",
        type=float,
        dest="start",
        help="seconds into the load from which on it counts (default with --trace: 3600)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    options = parser.parse_args()
    if not 1.0 <= options.speed <= 15.0:
        parser.error(f"--speed is {options.speed:g}; expected 1 to 15, for rlscaler decides once a second at most")
    try:
        source, start = (read_trace(options.trace), 3600.0) if options.trace else recorded_or_made_up()
        start = start if options.start is None else options.start
        load = burst(source, start, options.minutes, options.speed, options.seed)
        contenders = twins(source, start, options.minutes)
    except (TraceError, LoadError) as error:
        parser.error(str(error))
    predictions = predicted(load, contenders, time.time())
    seconds = load.interval * (len(load.shown) - load.past)
    print(f"plays for {seconds / 60.0:.1f} minutes ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="rlscaler-side-by-side-") as folder:
        print(report(load, played(load, contenders, Path(folder)), predictions))


if __name__ == "__main__":
    main()
