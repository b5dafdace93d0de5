# The way in: `make run` on a fresh machine. See `make help`.
.DEFAULT_GOAL := help
.PHONY: help run setup test check lint fmt bench-chat
.DELETE_ON_ERROR:

PY := .venv/bin/python
export PYTHON CHROMIUM

# Whether all is installed takes some 40 ms to find out. Only where it is not is a suitable Python looked for.
install = $(PY) -ES tools/install.py --check $(1) 2>/dev/null \
	|| { python=$$(sh tools/find-python.sh) && "$$python" tools/install.py $(1); }

# HOST counts only as an argument of make: conda and some shells have a variable of that name that means another thing.
app_args = $(if $(filter command,$(firstword $(origin HOST))),--host "$(HOST)") $(if $(PORT),--port "$(PORT)") $(ARGS)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

run: ## install what is missing, then start the app; HOST, PORT and ARGS are passed on: make run PORT=8000 ARGS="--no-start"
	@$(call install,)
	@exec $(PY) app.py $(app_args)

setup: ## only install: what the app needs and the tools for tests
	@$(call install,--dev)

test: setup ## every test, those with the real vLLM and a real browser too
	@CHROMIUM=$$($(PY) tools/chromium.py) && export CHROMIUM && exec $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=40

check: lint ## format, lint, types and the fast tests; under a minute
	@exec $(PY) -m pytest -q -n 2 --dist loadfile -m "not slow and not browser and not real"

lint: setup
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy

fmt: setup ## format the code and repair what ruff can repair
	@$(PY) -m ruff check --fix-only .
	@$(PY) -m ruff format .

bench-chat: setup ## how fast chats are beside other ways and in Chromium; ARGS="--playground PYTHON" (see benchmarks/chat.py)
	@CHROMIUM=$$($(PY) tools/chromium.py) && export CHROMIUM && exec $(PY) -m benchmarks.chat --browser $(ARGS)
