# `make run` and `make test` are all a fresh machine needs: each makes its own environment in .venv and installs into it.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
EXTRAS  = demo,plot,test
SANITIZE = -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all
SOURCES = $(shell find csrc -name '*.[ch]') sppim_core/_core.pyx sppim_core/sppim.pxd

.PHONY: help run test mnist compare compare-short sanitize bench bench-check bench-all lint clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

run: $(VENV)/installed  ## train on handwritten digits, print and draw the chip report
	$(BIN)/sppim train --float-baseline --plot digits.png
	@echo; echo "picture: digits.png"; echo
	$(BIN)/sppim report

test: $(VENV)/installed  ## the test suite
	SPPIM_EXPECT=$(CURDIR) $(BIN)/pytest -m "not slow"

mnist: $(VENV)/installed  ## whole trainings on MNIST; SPPIM_DATA names the folder that holds mnist/
	$(BIN)/pytest -m slow -s tests/test_train.py tests/test_resume.py

compare-short: $(VENV)/installed  ## shortened trainings beside float backpropagation (PyTorch), MNIST and CIFAR-10: ten minutes; SPPIM_DATA as above
	$(BIN)/pip install -q -e '.[compare]'
	$(BIN)/pytest -m slow -s tests/test_compare.py

compare: $(VENV)/installed  ## the whole comparison of docs/results, hours: goes on where it stopped; SPPIM_DATA names the folder of mnist/ and cifar10/
	$(BIN)/pip install -q -e '.[compare]'
	$(BIN)/sppim compare all --out results --jobs 2

sanitize: $(VENV)/installed  ## the test suite on a build with address and undefined-behaviour checks
	tools/sanitize.sh $(VENV) '$(SANITIZE)'

bench: $(VENV)/installed  ## ratios to the peak of this core and to numpy, scipy, torch, numkong, APyTypes; into bench.json
	$(BIN)/pip install -q -e '.[bench]'
	$(BIN)/python bench/compare.py --json bench.json

bench-check: $(VENV)/installed  ## the same; fails where a ratio is under its floor
	$(BIN)/pip install -q -e '.[bench]'
	$(BIN)/python bench/compare.py --check --json bench.json

bench-all: $(VENV)/installed  ## pytest-benchmark: operation x level x density x shape
	$(BIN)/pip install -q -e '.[bench]'
	$(BIN)/pytest bench --benchmark-columns=min,median,rounds --benchmark-sort=name

lint: $(VENV)/installed  ## style and types
	$(BIN)/pip install -q -e '.[lint]'
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## remove everything that was built
	rm -rf $(VENV) build dist *.egg-info sppim_core/_core.c sppim_core/*.so digits.png bench.json results

$(VENV)/installed: $(SOURCES) pyproject.toml setup.py tools/venv.sh
	tools/venv.sh $(PYTHON) $(VENV) -e '.[$(EXTRAS)]'
	@touch $@
