# Everything that a person or CI does here. Needs make and a Python of 3.11 or newer; see scripts/environment.py.

SHELL := /bin/sh
PYTHON ?= python3
ARGS ?=
COMPARE ?= hpa,hpa-tuned,keda

run := $(PYTHON) scripts/environment.py run
test := $(PYTHON) scripts/environment.py test

.PHONY: help dry-run test lint format bench bench-sim bench-training bench-cluster bench-serving bench-distributed benchmark side-by-side constraints docs results robustness frontier ablations stress preferences tictactoe rollouts default-policy

help: ## Show what there is to do
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r target text; do \
	  printf '  make %-12s %s\n' "$$target" "$$text"; done
	@echo
	@echo '  ARGS="..." is handed on to the command; PYTHON=python3.12 names the Python to build on.'

dry-run: ## Set up, then try examples/web.yaml in the simulator beside well-known rules; report: out/dry-run.html
	@mkdir -p out
	@$(run) rlscaler dry-run -f examples/web.yaml --compare $(COMPARE) --report out/dry-run.html $(ARGS)

test: ## Set up with the learning stack and the tools, then run the tests
	@$(test) python -m pytest -n 2 --dist loadfile --durations=25 $(ARGS)

# mypy joins types in the order of its sets, so that one seed of the hashes is one verdict.
lint: ## Check style, types (mypy and pyright) and the import rules; all are run, whichever fails
	@status=0; \
	$(test) python -m ruff check . || status=1; \
	$(test) python -m ruff format --check . || status=1; \
	$(test) env PYTHONHASHSEED=0 python -m mypy || status=1; \
	$(test) env PYRIGHT_PYTHON_IGNORE_WARNINGS=1 python -m pyright || status=1; \
	$(test) python -c "from importlinter.cli import lint_imports_command as run; run()" --no-logo || status=1; \
	exit $$status

format: ## Put the code into the house's form
	@$(test) python -m ruff format .
	@$(test) python -m ruff check --fix .

bench: bench-sim bench-training bench-cluster ## Measure the speed against named peers (40 minutes)

bench-sim: ## Measure the decision and the world
	@$(test) python -m rlscaler_sim.bench $(ARGS)

bench-training: ## Measure the learners, beside stable-baselines3 (under ten minutes)
	@$(test) python -m rlscaler_training.bench $(ARGS)

bench-cluster: ## Measure the operator with thousands of workloads, beside the HPA controller
	@$(test) python scripts/bench_cluster.py $(ARGS)

bench-serving: ## Measure decisions over HTTP beside those in process, and write docs/serving.md (two minutes)
	@$(test) python -m rlscaler_training.bench_serving --markdown docs/serving.md $(ARGS)

bench-distributed: ## Measure gradient steps alone, by DDP and by ZeRO-2, and write docs/distributed.md (three minutes)
	@$(test) python -m rlscaler_training.bench_distributed --markdown docs/distributed.md $(ARGS)

side-by-side: ## Play recorded load to twins under the real HPA and under rlscaler (half an hour)
	@$(test) python scripts/side_by_side.py --speed 1 $(ARGS)

constraints: ## Pin every package anew (ARGS="--upgrade" for the newest)
	@$(PYTHON) scripts/environment.py build scripts/constraints.sh $(ARGS)

docs: ## Make anew what the chart and the documents take from the code: the CRD and the tables
	@$(test) python scripts/chart.py
	@$(test) python scripts/documents.py
	@$(test) python -m rlscaler_training.benchmark_report docs/benchmark.json docs/benchmark.md
	@$(test) python -m rlscaler_training.ablation_report docs/ablations.json
	@$(test) python -m rlscaler_training.tictactoe_report docs/tictactoe.json docs/tictactoe.md
	@$(test) python -m rlscaler_sim.frontier_page docs/frontier.json

TRACES ?= ../shared/traces
benchmark: ## Compare the learners with the rules, and write docs/benchmark.md (an hour; goes on where it was cut off)
	@$(test) rlscaler benchmark $(if $(wildcard $(TRACES)),--traces $(TRACES)) --output docs/benchmark.json --markdown docs/benchmark.md $(ARGS)

results: ## Score everyone on the recorded loads of TRACES, and write docs/results.md (two hours)
	@$(run) rlscaler evaluate --policy default --policy learned --traces $(TRACES) --seeds 5 --for 14d --jobs 2 --output docs/results.json --markdown docs/results.md $(ARGS)

robustness: ## Score the default policy where the world is not as it is told, and write docs/robustness.md
	@$(run) rlscaler robustness --policy default --policy learned --traces $(TRACES) --for 6h --jobs 2 --output docs/robustness.json --markdown docs/robustness.md $(ARGS)

frontier: ## Turn everybody's knob: pods at the same share of late requests, and write docs/frontier.md (an hour)
	@$(run) python -m rlscaler_sim.frontier --traces $(TRACES) --results docs/results.json --output docs/frontier.json
	@$(run) python -m rlscaler_sim.frontier_page docs/frontier.json

stress: ## Search the load on which the default policy loses most, and write docs/stress.md (a few minutes)
	@$(run) rlscaler stress --policy default --for 4h --budget 384 --output docs/stress.json --markdown docs/stress.md --plot docs/stress.png $(ARGS)

preferences: ## Measure what preferences do to bdq and apg, and write docs/preferences.md (ten minutes; can be cut off)
	@$(test) python scripts/preferences.py $(ARGS)

tictactoe: ## Measure rollouts on Ray by Tic-Tac-Toe, and write docs/tictactoe.md (five minutes, on a machine at rest)
	@$(test) rlscaler benchmark tictactoe --workers 1 2 4 8 12 --output docs/tictactoe.json --markdown docs/tictactoe.md --plot docs/tictactoe.png $(ARGS)

rollouts: ## Measure trainings with workers on Ray, and write docs/rollouts.md (ten minutes; goes on where it was cut off)
	@$(test) python scripts/rollouts.py $(ARGS)

ablations: ## Score the default policy without its parts, and other learners (40 minutes; goes on where it was cut off)
	@$(test) python scripts/ablations.py --traces $(TRACES) --work out/ablations --output docs/ablations.json $(ARGS)

default-policy: ## Train the default policy from scratch, into the package (half an hour)
	@$(test) python scripts/default_policy.py --traces $(TRACES) --work out/default $(ARGS)
